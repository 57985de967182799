import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stpredict.baselines import ContextMean, Persistence, TrainingMean
from stpredict.data.clips import ClipSet
from stpredict.errors import UserError
from stpredict.evaluation import evaluate
from stpredict.forecasts import ForecastFile
from stpredict.frames import Clip, FrameSpec, Packing, Transform

HEIGHT, WIDTH, CONTEXT, HORIZON = 12, 16, 3, 4
SPEC = FrameSpec(1, HEIGHT, WIDTH, units="mm/h", transform=Transform(high=25.0), fill=2.0, time_step=300.0)


class Toy(ClipSet):
    card, split, spec, packing, context, horizon = "toy", "test", SPEC, Packing(scale=0.1, missing=(255,)), CONTEXT, HORIZON

    def __init__(self, clips: int = 7, seed: int = 0, missing: float = 0.1, known: bool = False, valid: bool = False) -> None:
        random = np.random.default_rng(seed)
        self.frames = random.integers(0, 255, (clips, CONTEXT + HORIZON, 1, HEIGHT, WIDTH), dtype=np.uint8)
        self.frames[random.random(self.frames.shape) < missing] = 255
        self.known = random.normal(size=(clips, CONTEXT + HORIZON, 2, HEIGHT, WIDTH)).astype(np.float32) if known else None
        self.valid = random.random(self.frames.shape) < 0.9 if valid else None

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Clip:
        return Clip(
            self.frames[index],
            None if self.valid is None else self.valid[index],
            None if self.known is None else self.known[index],
        )

    def physical(self) -> NDArray[np.float64]:
        values = np.where(self.frames == 255, np.nan, np.float32(0.1) * self.frames.astype(np.float32)).astype(np.float64)
        return values if self.valid is None else np.where(self.valid, values, np.nan)


class Constant:
    """Forecasts one value everywhere."""

    spec: FrameSpec | None = SPEC

    def __init__(self, value: float = 3.0, name: str = "constant") -> None:
        self.value, self.name = value, name

    def forecast(self, observed: torch.Tensor, horizon: int, *, members: int | None = None, known: Any = None) -> torch.Tensor:
        assert torch.is_inference_mode_enabled() and observed.dtype == torch.float32 and observed.shape[1] == CONTEXT
        return torch.full((len(observed), horizon, *observed.shape[2:]), self.value)


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
    with pytest.raises(UserError, match="forecasts 5 clips, and clip 5"):
        evaluate(ForecastFile(path), data)
    data.frames[4, 0, 0, 0, 0] ^= 1
    with pytest.raises(UserError, match="clip 4 of 'toy' test had other frames"):
        evaluate(ForecastFile(path), data, limit=5)
    with pytest.raises(UserError, match="one predictor"):
        evaluate([Constant(), Constant()], data, save_forecasts=path)


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
    assert scores.baselines == ("extrapolation", "context-mean")


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


def test_a_forecast_of_nan_is_not_scored_away(tmp_path: Path) -> None:
    scores = evaluate(Constant(math.nan), Toy(), baselines=False)
    assert all(math.isnan(numbers["mean"]) for numbers in scores.scores["constant"].values())
    scores.write(tmp_path / "scores.json")
    assert json.loads((tmp_path / "scores.json").read_text())["scores"]["constant"]["ssim"] == {"mean": None, "per_lead": [None] * 4}


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
    with pytest.raises(UserError, match="at least 1, not 16 and -1"):
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


class Rain(Toy):
    """The same films with thresholds, cut from three films."""

    spec = replace(SPEC, z_r=(200.0, 1.6), minimum=0.0, thresholds=(2.0, 10.0))
    index = np.array([[number // 3, 0] for number in range(7)])


class Ensemble(Constant):
    """Forecasts other values for each member."""

    def forecast(self, observed: torch.Tensor, horizon: int, *, members: int | None = None, known: Any = None) -> torch.Tensor:
        forecast = super().forecast(observed, horizon)
        if members is None:
            return forecast
        return forecast.unsqueeze(1) + torch.arange(members).view(1, -1, 1, 1, 1, 1)


def test_thresholds_of_the_card_add_the_csi_and_nothing_else() -> None:
    data = Rain()
    scores = evaluate(Constant(3.0), data)
    assert list(scores.scores["constant"]) == [*evaluate(Constant(3.0), Toy()).scores["constant"], "csi"]
    truth = data.physical()[:, CONTEXT:]
    csi = (truth >= 2).sum() / (~np.isnan(truth)).sum()
    numbers = scores.scores["constant"]["csi"]
    assert list(numbers["parts"]) == ["2", "10"] and numbers["parts"]["10"] == {"mean": 0.0, "per_lead": [0.0] * HORIZON}
    assert numbers["parts"]["2"]["mean"] == pytest.approx(csi) and numbers["mean"] == pytest.approx(csi / 2)
    assert numbers["per_lead"] == pytest.approx((truth >= 2).sum((0, 2, 3, 4)) / (~np.isnan(truth)).sum((0, 2, 3, 4)) / 2)
    assert scores.better["csi"] == "higher" and scores.to_dict()["scores"]["constant"]["csi"] == numbers


def test_thresholds_may_be_given() -> None:
    scores = evaluate(Constant(3.0), Toy(), scores=["csi", "far"], thresholds=[2.5], baselines=False).scores["constant"]
    assert list(scores["csi"]["parts"]) == ["2.5"] and scores["csi"]["mean"] == pytest.approx(1 - scores["far"]["mean"], rel=1e-6)
    assert "csi" in evaluate(Constant(3.0), Toy(), thresholds=[2.5]).scores["constant"]
    with pytest.raises(UserError, match="The score 'csi' needs thresholds"):
        evaluate(Constant(), Toy(), scores=["csi"])


def test_scores_in_other_units() -> None:
    data = Rain()
    rates, dbz = (evaluate(Constant(3.0), data, scores=["csi", "mae"], units=units) for units in (None, "dBZ"))
    assert (rates.units, dbz.units) == ("mm/h", "dBZ") and rates.hash == dbz.hash
    for name, by_score in rates.scores.items():
        assert list(by_score["csi"]["parts"].values()) == list(dbz.scores[name]["csi"]["parts"].values())
    truth = np.maximum(10 * np.log10(200 * np.maximum(data.physical()[:, CONTEXT:], 1e-9) ** 1.6), -10)
    wanted = np.nanmean(abs(10 * np.log10(200 * 3.0**1.6) - truth))
    assert dbz.scores["constant"]["mae"]["mean"] == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(UserError, match="cannot be turned into kelvin"):
        evaluate(Constant(), data, units="kelvin")


def test_ensembles() -> None:
    data = Toy(missing=0.2)
    names = ["mae", "crps", "crps_fair", "rank_histogram"]
    scores = evaluate(Ensemble(3.0), data, scores=names, members=3)
    truth = data.physical()[:, CONTEXT:]
    distance = np.nanmean([abs(3.0 + member - truth) for member in range(3)])
    found = {name: numbers["mean"] for name, numbers in scores.scores["constant"].items()}
    assert found["mae"] == pytest.approx(np.nanmean(abs(4.0 - truth)), rel=1e-5)
    assert found["crps"] == pytest.approx(distance - 8 / 18, rel=1e-5) and found["crps_fair"] == pytest.approx(distance - 8 / 12, rel=1e-5)
    below = [np.nanmean(np.where(np.isnan(truth), np.nan, sum((3.0 + member < truth) for member in range(3)) == rank)) for rank in range(4)]
    parts = scores.scores["constant"]["rank_histogram"]["parts"]
    assert [parts[str(rank)]["mean"] for rank in range(4)] == pytest.approx(below, abs=0.02)  # a few pixels equal a member
    persistence = scores.scores["persistence"]
    assert persistence["crps"]["mean"] == pytest.approx(persistence["mae"]["mean"], rel=1e-6)
    assert persistence["mae"] == evaluate([], data, scores=["mae"]).scores["persistence"]["mae"]
    assert scores.to_dict()["members"] == 3


def test_a_forecast_file_is_an_ensemble_of_one(tmp_path: Path) -> None:
    data, path = Toy(), tmp_path / "saved.npz"
    evaluate(Constant(), data, save_forecasts=path)
    scores = evaluate([ForecastFile(path), Ensemble()], data, scores=["mae", "crps", "rank_histogram"], members=2)
    assert scores.scores["saved.npz"]["crps"]["mean"] == pytest.approx(scores.scores["saved.npz"]["mae"]["mean"], rel=1e-6)
    assert list(scores.scores["saved.npz"]["rank_histogram"]["parts"]) == ["0", "1"]
    assert "| 0 | 1 | 2 |" in scores.markdown() and "| nan |" in scores.markdown()
    with pytest.raises(UserError, match="holds single forecasts"):
        evaluate(Constant(), data, members=2, save_forecasts=tmp_path / "other.npz")
    with pytest.raises(UserError, match=r"instead of a tensor \(7, 2, 4, 1, 12, 16\)"):
        evaluate(Constant(), data, members=2)


def test_skill_over_a_baseline() -> None:
    data = Rain()
    scores = evaluate(Constant(12.0), data, skill="persistence", batch_size=3)
    assert scores.skill is not None
    skill, means = scores.skill["scores"], {name: by_score["csi"]["mean"] for name, by_score in scores.scores.items()}
    assert list(skill) == ["constant", "extrapolation", "context-mean"] and (scores.skill["over"], scores.skill["resample"]) == (
        "persistence",
        "clips",
    )
    wanted = (means["constant"] - means["persistence"]) / (1 - means["persistence"])
    assert skill["constant"]["csi"]["value"] == pytest.approx(wanted)
    assert skill["constant"]["csi"]["low"] < wanted < skill["constant"]["csi"]["high"]
    assert list(skill["constant"]) == ["mse", "mae", "mse_sum", "mae_sum", "ssim", "csi"]
    again = evaluate(Constant(12.0), data, skill="persistence", batch_size=7).skill
    assert again is not None and again["scores"]["constant"]["mse"] == pytest.approx(skill["constant"]["mse"], rel=1e-6)
    films = evaluate(Constant(12.0), data, skill="persistence", resample="films").skill
    assert films is not None and films["scores"]["constant"]["csi"]["value"] == pytest.approx(wanted)
    assert films["scores"]["constant"]["csi"]["low"] != skill["constant"]["csi"]["low"]
    with pytest.raises(UserError, match="no predictor 'persistance' over which to say the skill; did you mean 'persistence'"):
        evaluate(Constant(), data, skill="persistance")
    with pytest.raises(UserError, match="not of several films"):
        evaluate(Constant(), Toy(), skill="persistence", resample="films")
    with pytest.raises(UserError, match="'clips' or 'films', not 'days'"):
        evaluate(Constant(), Toy(), skill="persistence", resample="days")
