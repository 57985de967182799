import json
import math
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stpredict.baselines import ContextMean, Persistence, TrainingMean
from stpredict.data.clips import ClipSet
from stpredict.errors import UserError
from stpredict.evaluation import evaluate
from stpredict.forecasts import ForecastFile
from stpredict.frames import Clip, FrameSpec
from stpredict.networks import create_network
from stpredict.predictor import Predictor

SAMPLES = runpy.run_path(str(Path(__file__).with_name("samples.py")))
CONTEXT, HORIZON, HEIGHT, WIDTH, SPEC = (SAMPLES[name] for name in ("CONTEXT", "HORIZON", "HEIGHT", "WIDTH", "SPEC"))
Toy, Rain, Constant, Ensemble = (SAMPLES[name] for name in ("Toy", "Rain", "Constant", "Ensemble"))


class Oracle:
    """Knows the truth and errs by ``error``; what it knows comes as a known input."""

    name, spec = "oracle", SPEC

    def __init__(self, data: Toy, error: float) -> None:
        self.future, self.error = torch.from_numpy(data.physical()).float()[:, CONTEXT:], error
        self.seen = 0

    def forecast(self, observed: torch.Tensor, horizon: int, *, members: int | None = None, known: Any = None) -> torch.Tensor:
        future = self.future[self.seen : self.seen + len(observed)]
        self.seen += len(observed)
        return future.nan_to_num(1e9) + self.error * torch.arange(1, horizon + 1).view(1, -1, 1, 1, 1)


def test_an_oracle_that_errs_by_a_known_amount() -> None:
    data = Toy(missing=0.2)
    scores = evaluate(Oracle(data, error=0.5), data, baselines=False).scores["oracle"]
    leads = np.arange(1, 5)
    assert scores["mse"]["per_lead"] == pytest.approx((0.5 * leads) ** 2, rel=1e-5)
    assert scores["mae"]["per_lead"] == pytest.approx(0.5 * leads, rel=1e-5)
    assert scores["psnr"]["per_lead"] == pytest.approx(20 * np.log10(25.0 / (0.5 * leads)), rel=1e-5)
    valid = (~np.isnan(data.physical()[:, CONTEXT:])).sum((2, 3, 4))
    assert scores["mae_sum"]["per_lead"] == pytest.approx(0.5 * leads * valid.mean(0), rel=1e-5)
    assert scores["mae"]["mean"] == pytest.approx((0.5 * leads * valid).sum() / valid.sum(), rel=1e-5)
    assert scores["psnr"]["mean"] == pytest.approx(np.mean(scores["psnr"]["per_lead"]))


@pytest.mark.parametrize("valid", [False, True])
@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_baselines_equal_numpy(valid: bool) -> None:
    data, training = Toy(missing=0.4, valid=valid), Toy(clips=5, seed=9, missing=0.0)
    scores = evaluate([], data, training_clips=training, scores=["mse", "mae"])
    assert list(scores.scores) == ["persistence", "extrapolation", "context-mean", "training-mean"] == list(scores.baselines)
    observed, truth = np.split(data.physical(), [CONTEXT], axis=1)
    newest = observed[:, 0]
    for lead in range(1, CONTEXT):
        newest = np.where(np.isnan(observed[:, lead]), newest, observed[:, lead])
    answers = {
        "persistence": newest,
        "context-mean": np.nanmean(observed, axis=1),
        "training-mean": np.broadcast_to(training.physical().mean((0, 1)), newest.shape),
    }
    assert np.isnan(newest[~np.isnan(truth[:, 0])]).any()
    for name, answer in answers.items():  # what extrapolation forecasts, test_motion and test_baselines say
        by_score = scores.scores[name]
        error = np.where(np.isnan(answer), SPEC.fill, answer)[:, None] - truth
        assert by_score["mse"]["per_lead"] == pytest.approx(np.nanmean(error**2, axis=(0, 2, 3, 4)), rel=1e-5)
        assert by_score["mae"]["mean"] == pytest.approx(np.nanmean(abs(error)), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_the_batch_size_changes_nothing(batch_size: int) -> None:
    whole = evaluate(Constant(), Toy(), batch_size=7)
    parts = evaluate(Constant(), Toy(), batch_size=batch_size)
    assert parts.hash == whole.hash
    for name, by_score in whole.scores.items():
        for score, numbers in by_score.items():
            assert parts.scores[name][score]["mean"] == pytest.approx(numbers["mean"], rel=1e-6)
            assert parts.scores[name][score]["per_lead"] == pytest.approx(numbers["per_lead"], rel=1e-6)


def test_worker_processes_change_nothing() -> None:
    data = Toy(clips=4)
    assert evaluate(Constant(), data, workers=1, batch_size=2).to_dict() == evaluate(Constant(), data, batch_size=2).to_dict()


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_saved_forecasts_score_as_live_ones(tmp_path: Path, suffix: str) -> None:
    data, path = Toy(missing=0.02), tmp_path / f"saved{suffix}"
    live = evaluate(Constant(1.7), data, save_forecasts=path, batch_size=3)
    scored = evaluate(ForecastFile(path), data, batch_size=2)
    assert scored.hash == live.hash == ForecastFile(path).hash
    assert list(scored.scores) == [path.name, "persistence", "extrapolation", "context-mean"]
    for score, numbers in live.scores["constant"].items():
        assert scored.scores[path.name][score]["mean"] == pytest.approx(numbers["mean"], rel=1e-6)
        assert scored.scores[path.name][score]["per_lead"] == pytest.approx(numbers["per_lead"], rel=1e-6)


def test_forecasts_of_other_clips_are_refused(tmp_path: Path) -> None:
    data, path = Toy(), tmp_path / "saved.h5"
    evaluate(Constant(), data, save_forecasts=path, limit=5)
    evaluate(ForecastFile(path), data, limit=3)
    whole = evaluate([ForecastFile(path), Constant()], data)
    assert whole.clips == 5 and whole.indices == (0, 1, 2, 3, 4)
    assert whole.warnings == ("Scored are 5 of 7 clips: 'saved.h5' forecasts 5",)
    assert whole.scores["saved.h5"] == whole.scores["constant"] == evaluate(Constant(), data, limit=5).scores["constant"]
    data.frames[4, 0, 0, 0, 0] ^= 1
    with pytest.raises(UserError, match="clip 4 of 'toy' test had other frames"):
        evaluate(ForecastFile(path), data, limit=5)
    with pytest.raises(UserError, match="one predictor"):
        evaluate([Constant(), Constant()], data, save_forecasts=path)


def test_the_clips_that_all_saved_forecasts_have_are_scored(tmp_path: Path) -> None:
    class Later(ForecastFile):
        def clips(self, data: ClipSet, count: int) -> list[int]:
            return [clip for clip in super().clips(data, count) if clip >= 3]

    data = Toy()
    for name, limit in (("a.h5", 5), ("b.h5", 6), ("c.h5", 2)):
        evaluate(Constant(), data, save_forecasts=tmp_path / name, limit=limit)
    scores = evaluate([tmp_path / "a.h5", Later(tmp_path / "b.h5")], data, scores=["mse"], batch_size=1)
    assert scores.indices == (3, 4) and scores.clips == 2 and len(scores.per_clip["a.h5"]["mse"]) == 2
    assert scores.warnings == ("Scored are 2 of 7 clips: 'a.h5' forecasts 5, 'b.h5' forecasts 3",)
    assert scores.selected["mse"]["a.h5"].keys() == {"best", "median", "worst"} and scores.selected["mse"]["a.h5"]["best"] in (3, 4)
    with pytest.raises(UserError, match=r"No clip of the split 'test' of 'toy' is forecast by all of b\.h5, c\.h5"):
        evaluate([Later(tmp_path / "b.h5"), tmp_path / "c.h5"], data)


def test_nothing_is_left_of_forecasts_that_fail(tmp_path: Path) -> None:
    class Failing(Constant):
        def forecast(self, observed: Any, horizon: int, *, members: Any = None, known: Any = None) -> Any:
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        evaluate(Failing(), Toy(), save_forecasts=tmp_path / "saved.h5")
    assert list(tmp_path.iterdir()) == []


def test_the_hash_is_of_the_clips_that_were_scored() -> None:
    def hash_of(data: Toy, limit: int | None = None) -> str:
        return evaluate([], data, scores=["mse"], limit=limit).hash

    data = Toy()
    first = hash_of(data)
    assert len(first) == 32 and hash_of(Toy()) == first
    data.frames[6, 6, 0, 11, 15] ^= 1
    assert hash_of(data) != first and hash_of(data, limit=6) == hash_of(Toy(), limit=6) != first
    data.frames[6, 6, 0, 11, 15] ^= 1
    data.context, data.horizon = CONTEXT + 1, HORIZON - 1
    assert hash_of(data) != first


def test_limit_scores_the_first_clips() -> None:
    data, few = Toy(), Toy()
    few.frames = few.frames[:3]
    limited = evaluate(Constant(), data, limit=3)
    assert limited.clips == 3 and limited.to_dict() == evaluate(Constant(), few).to_dict()
    assert evaluate(Constant(), data, limit=100).clips == 7


def test_known_inputs_reach_the_predictor() -> None:
    data = Toy(known=True)

    class Knowing(Constant):
        def forecast(self, observed: Any, horizon: int, *, members: Any = None, known: Any = None) -> Any:
            assert known.shape == (len(observed), CONTEXT + HORIZON, 2, HEIGHT, WIDTH)
            return known[:, CONTEXT:, 1:]

    assert data.known is not None
    error = data.known[:, CONTEXT:, 1:] - data.physical()[:, CONTEXT:]
    scores = evaluate(Knowing(), data, baselines=False).scores
    assert scores["constant"]["mse"]["mean"] == pytest.approx(np.nanmean(error**2), rel=1e-5)


def test_equal_names_are_told_apart() -> None:
    scores = evaluate([Constant(1.0, "a"), Constant(2.0, "a"), Constant(3.0, "a (2)"), Persistence()], Toy(), scores=["mse"])
    assert list(scores.scores) == ["a", "a (2)", "a (2) (2)", "persistence", "extrapolation", "context-mean"]
    assert scores.baselines == ("persistence", "extrapolation", "context-mean")


def test_names_and_paths_are_loaded(tmp_path: Path) -> None:
    data = Toy()
    evaluate(Constant(), data, save_forecasts=tmp_path / "saved.npz")
    scores = evaluate(["training-mean", tmp_path / "saved.npz"], data, training_clips=Toy(seed=4), baselines=False)
    assert list(scores.scores) == ["training-mean", "saved.npz"]
    assert np.isfinite(scores.scores["training-mean"]["mse"]["mean"])


def test_the_training_split_of_the_data_gives_the_training_mean() -> None:
    class WithTraining(Toy):
        def training_split(self) -> ClipSet:
            return Toy(seed=4, missing=0.0)

    data = WithTraining()
    given = evaluate([TrainingMean.of(Toy(seed=4, missing=0.0)), ContextMean()], data)
    found = evaluate([], data)
    assert list(found.scores) == ["persistence", "extrapolation", "context-mean", "training-mean"]
    assert found.scores["training-mean"] == given.scores["training-mean"]


def test_training_frames_of_another_size_have_no_mean_to_compare_with() -> None:
    class TrainedOnSquares(Toy):
        def training_split(self) -> ClipSet:
            squares = Toy(seed=4)
            squares.spec = replace(SPEC, height=HEIGHT - 1)
            squares.frames = squares.frames[..., 1:, :]
            return squares

    assert list(evaluate([], TrainedOnSquares()).scores) == ["persistence", "extrapolation", "context-mean"]
    with pytest.raises(UserError, match=r"mean training frame is .* take the mean over training clips of the same size"):
        evaluate("training-mean", TrainedOnSquares(), baselines=False)


def test_a_forecast_of_nan_is_not_scored_away(tmp_path: Path) -> None:
    scores = evaluate(Constant(math.nan), Toy(), baselines=False)
    assert all(math.isnan(numbers["mean"]) for numbers in scores.scores["constant"].values())
    scores.write(tmp_path / "scores.json")
    written = json.loads((tmp_path / "scores.json").read_text())
    none = {"mean": None, "interval": [None] * 2, "per_lead": [None] * 4, "per_lead_interval": [[None] * 4] * 2}
    assert written["scores"]["constant"]["ssim"] == none
    assert written["warnings"] == [
        "'constant' forecasts NaN where the truth is not, in 28 of 28 frames: all but its scores of events are NaN"
    ]
    assert "constant" not in scores.selected["mse"]

    class Spotted(Constant):
        def forecast(self, observed: Any, horizon: int, *, members: Any = None, known: Any = None) -> torch.Tensor:
            forecast = super().forecast(observed, horizon)
            forecast[:, 1, 0, 0, 0] = math.nan
            return forecast

    data = Toy()
    data.frames[:3, CONTEXT + 1, 0, 0, 0], data.frames[3:, CONTEXT + 1, 0, 0, 0] = 255, 0  # missing in three clips
    spotted = evaluate(Spotted(), data, baselines=False)
    assert spotted.warnings == ("'constant' forecasts NaN where the truth is not, in 4 of 28 frames: all but its scores of events are NaN",)
    leads = spotted.scores["constant"]["mse"]["per_lead"]
    assert math.isnan(leads[1]) and np.isfinite([leads[0], *leads[2:]]).all()
    assert not evaluate(Constant(math.inf), data, baselines=False).warnings


def test_what_does_not_fit_is_refused() -> None:
    class Other(Constant):
        spec = FrameSpec(3, HEIGHT, WIDTH, units="dBZ", time_step=600.0)

    why = r"has channels 3 instead of 1, units dBZ instead of mm/h, a time step in seconds of 600\.0 instead of 300\.0"
    with pytest.raises(UserError, match="'constant' does not fit the data 'toy': it " + why):
        evaluate(Other(), Toy())

    class Short(Constant):
        def forecast(self, observed: Any, horizon: int, *, members: Any = None, known: Any = None) -> Any:
            return super().forecast(observed, horizon - 1)

    with pytest.raises(UserError, match=r"'constant' answered with Tensor \(7, 3, 1, 12, 16\) instead of a tensor \(7, 4, 1, 12, 16\)"):
        evaluate(Short(), Toy())


def test_impossible_wishes_are_refused() -> None:
    with pytest.raises(UserError, match="no protocol 'per-pixle'; did you mean 'per-pixel'"):
        evaluate(Constant(), Toy(), "per-pixle")
    with pytest.raises(UserError, match="did you mean 'ssim'"):
        evaluate(Constant(), Toy(), scores=["sim"])
    with pytest.raises(UserError, match="at least 1, not 0"):
        evaluate(Constant(), Toy(), batch_size=0)
    with pytest.raises(UserError, match="at least 1, not -1"):
        evaluate(Constant(), Toy(), limit=-1)
    with pytest.raises(UserError, match="'test' of 'toy' holds no clip of 3 \\+ 4 frames"):
        evaluate(Constant(), Toy(clips=0))
    with pytest.raises(UserError, match="nothing to score"):
        evaluate([], Toy(), baselines=False)


def test_a_score_of_ones_own_must_answer_per_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "score_of_evaluation_test.py").write_text(
        "class Bias:\n"
        "    name = 'bias'\n"
        "    def __call__(self, prediction, truth, spec):\n"
        "        error = (prediction - truth).nan_to_num(0).double().flatten(2).sum(2)\n"
        "        return error, (~truth.isnan()).double().flatten(2).sum(2)\n"
        "class Wrong(Bias):\n"
        "    def __call__(self, prediction, truth, spec):\n"
        "        return prediction.mean(), truth.mean()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    data = Toy()
    scores = evaluate(Constant(), data, scores=["score_of_evaluation_test:Bias"], baselines=False)
    assert scores.scores["constant"]["bias"]["mean"] == pytest.approx(3.0 - np.nanmean(data.physical()[:, CONTEXT:]), rel=1e-5)
    assert "bias |" in scores.markdown()
    with pytest.raises(UserError, match=r"'bias' must return two tensors \(\d, 4\)"):
        evaluate(Constant(), data, scores=["score_of_evaluation_test:Wrong"])


def test_times_are_part_of_the_hash_and_are_saved(tmp_path: Path) -> None:
    class Timed(Toy):
        start = np.datetime64("2010-08-26T03:00", "s")

        def __getitem__(self, index: int) -> Clip:
            return Clip(self.frames[index], times=self.start + (index + np.arange(CONTEXT + HORIZON)) * np.timedelta64(300, "s"))

    data, path = Timed(), tmp_path / "saved.npz"
    first = evaluate(Constant(), data, save_forecasts=path, batch_size=2)
    times = ForecastFile(path).times
    assert times is not None and times.shape == (7, HORIZON)
    assert times[2, 1] == np.datetime64("2010-08-26T03:30", "s")
    data.start += np.timedelta64(1, "s")
    assert evaluate(Constant(), data).hash != first.hash != evaluate(Constant(), Toy()).hash
    with pytest.raises(UserError, match="had other frames or times"):
        evaluate(ForecastFile(path), data)


def test_frames_of_a_size_that_a_network_cannot_take() -> None:
    free, bound = (
        Predictor(
            create_network("convlstm", channels=1, hidden=[2], kernel_size=3, patch_size=4, frame_size=(24, 16), **more),
            replace(SPEC, height=24),
            CONTEXT,
            HORIZON,
            network_name="convlstm",
            network_settings={"hidden": [2], "kernel_size": 3, "patch_size": 4, **more},
        )
        for more in ({}, {"peephole": True})
    )
    evaluate(free, Toy(), scores=["mse"], baselines=False)
    why = (
        r"weights for single pixels of frames of 24 x 16 instead of 12 x 16; in a copy of the card, write resize: \[24, 16\] under spatial"
    )
    with pytest.raises(UserError, match=why):
        evaluate(bound, Toy())


def test_how_what_does_not_fit_is_mended() -> None:
    class Slow(Constant):
        spec = replace(SPEC, units="dBZ", time_step=600.0)

    with pytest.raises(UserError, match=r"take a reader that gives dBZ \(cf converts, by its setting units\); write every: 2 under window"):
        evaluate(Slow(), Toy())

    class Digits(Constant):
        spec = replace(SPEC, units="1")

    with pytest.raises(UserError, match="units 1 instead of mm/h; nothing turns mm/h into 1, so use it on data of the kind that it was"):
        evaluate(Digits(), Toy())
