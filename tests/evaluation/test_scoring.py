"""What evaluation finds: scores, intervals, skill, clips, and what was scored."""

import math
import runpy
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from stpredict.baselines import TrainingMean
from stpredict.data import load_data
from stpredict.data.clips import Film
from stpredict.data.together import Together
from stpredict.errors import UserError
from stpredict.evaluation import evaluate, prepare
from stpredict.evaluation.clips import film_name, film_numbers
from stpredict.forecasts import ForecastFile
from stpredict.networks import create_network
from stpredict.predictor import Predictor
from stpredict.weights.catalogue import CATALOGUE, PIXEL_MEANS, Benchmark

SAMPLES = runpy.run_path(str(Path(__file__).with_name("samples.py")))
CONTEXT, HORIZON, HEIGHT, WIDTH, SPEC = (SAMPLES[name] for name in ("CONTEXT", "HORIZON", "HEIGHT", "WIDTH", "SPEC"))
Toy, Rain, Constant, Ensemble = (SAMPLES[name] for name in ("Toy", "Rain", "Constant", "Ensemble"))


def test_thresholds_of_the_card_add_the_csi_and_nothing_else() -> None:
    data = Rain()
    scores = evaluate(Constant(3.0), data)
    assert list(scores.scores["constant"]) == [*evaluate(Constant(3.0), Toy()).scores["constant"], "csi"]
    truth = data.physical()[:, CONTEXT:]
    csi = (truth >= 2).sum() / (~np.isnan(truth)).sum()
    numbers = scores.scores["constant"]["csi"]
    assert list(numbers["parts"]) == ["2", "10"] and numbers["parts"]["10"] == {
        "mean": 0.0,
        "interval": [0.0, 0.0],
        "per_lead": [0.0] * HORIZON,
    }
    assert numbers["parts"]["2"]["mean"] == pytest.approx(csi) and numbers["mean"] == pytest.approx(csi / 2)
    assert numbers["per_lead"] == pytest.approx((truth >= 2).sum((0, 2, 3, 4)) / (~np.isnan(truth)).sum((0, 2, 3, 4)) / 2)
    assert scores.better["csi"] == "higher" and scores.to_dict()["scores"]["constant"]["csi"] == numbers


def test_thresholds_may_be_given() -> None:
    scores = evaluate(Constant(3.0), Toy(), scores=["csi", "far"], thresholds=[2.5], baselines=False).scores["constant"]
    assert list(scores["csi"]["parts"]) == ["2.5"] and scores["csi"]["mean"] == pytest.approx(1 - scores["far"]["mean"], rel=1e-6)
    assert "csi" in evaluate(Constant(3.0), Toy(), thresholds=[2.5]).scores["constant"]
    with pytest.raises(UserError, match="The score 'csi' needs thresholds"):
        evaluate(Constant(), Toy(), scores=["csi"])


@pytest.mark.parametrize(
    ("score", "why"),
    [
        ("csi_pool16", "Pools of 16 x 16 pixels need frames of at least that size, not 12 x 16"),
        ("balanced_mse", "To turn mm/h into dBZ takes a and b of Z = a R\\^b"),
        ("crps_fair", "needs at least 2 members"),
    ],
)
def test_a_score_that_is_not_for_the_frames_is_refused_before_anything_is_forecast(score: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        prepare(Constant(), Toy(), scores=[score], thresholds=[2.0])


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
    live = evaluate(Ensemble(), data, members=2, scores=["crps"], save_forecasts=tmp_path / "members.npz").scores["constant"]
    again = evaluate(tmp_path / "members.npz", data, scores=["crps"]).scores["members.npz"]
    assert again["crps"]["mean"] == pytest.approx(live["crps"]["mean"], rel=1e-6)
    evaluate(tmp_path / "members.npz", data, scores=["crps"], save_forecasts=tmp_path / "copied.h5")
    np.testing.assert_array_equal(*(ForecastFile(tmp_path / name).read_rows(range(7)) for name in ("members.npz", "copied.h5")))
    with pytest.raises(UserError, match=r"instead of a tensor \(7, 2, 4, 1, 12, 16\)"):
        evaluate(Constant(), data, members=2)


def test_skill_over_a_baseline_and_differences_from_it() -> None:
    data = Rain()
    scores = evaluate(Constant(12.0), data, skill="persistence", batch_size=3)
    assert scores.over is not None and scores.over["name"] == "persistence" and scores.resample == "clips"
    skill, means = scores.over["skill"], {name: by_score["csi"]["mean"] for name, by_score in scores.scores.items()}
    assert list(skill) == ["constant", "extrapolation", "context-mean"] == list(scores.over["differences"])
    wanted = (means["constant"] - means["persistence"]) / (1 - means["persistence"])
    assert skill["constant"]["csi"]["value"] == pytest.approx(wanted)
    assert skill["constant"]["csi"]["low"] < wanted < skill["constant"]["csi"]["high"]
    assert list(skill["constant"]) == ["mse", "mae", "mse_sum", "mae_sum", "ssim", "csi"]
    differences = scores.over["differences"]["constant"]
    assert list(differences) == list(scores.scores["constant"])
    assert differences["csi"]["value"] == pytest.approx(means["constant"] - means["persistence"])
    assert differences["csi"]["low"] < differences["csi"]["value"] < differences["csi"]["high"]
    by_lead = [scores.scores[name]["csi"]["per_lead"] for name in ("constant", "persistence")]
    assert differences["csi"]["per_lead"] == pytest.approx([own - other for own, other in zip(*by_lead, strict=True)])
    again = evaluate(Constant(12.0), data, skill="persistence", batch_size=7).over
    assert again is not None
    for key, numbers in skill["constant"]["mse"].items():
        np.testing.assert_allclose(again["skill"]["constant"]["mse"][key], numbers, rtol=1e-6)
    assert evaluate(Constant(12.0), data).over is None
    with pytest.raises(UserError, match="no predictor 'persistance' over which to say the skill; did you mean 'persistence'"):
        evaluate(Constant(), data, skill="persistance")


def test_films_are_drawn_as_a_whole() -> None:
    data = Rain()
    clips, films = (evaluate(Constant(12.0), data, skill="persistence", resample=resample) for resample in ("clips", "films"))
    assert films.resample == "films" and clips.over is not None and films.over is not None
    for first, second in (
        (clips.over["skill"]["constant"]["csi"], films.over["skill"]["constant"]["csi"]),
        (clips.over["differences"]["constant"]["mse"], films.over["differences"]["constant"]["mse"]),
    ):
        assert first["value"] == second["value"] and first["low"] != second["low"]
    ours, whole = clips.scores["constant"]["mse"], films.scores["constant"]["mse"]
    assert ours["mean"] == whole["mean"] and ours["interval"] != whole["interval"]
    assert np.ptp(evaluate(Constant(12.0), data, limit=4, resample="films").scores["constant"]["mse"]["interval"]) > 0
    with pytest.raises(UserError, match="not of several films"):
        evaluate(Constant(), data, limit=3, resample="films")
    with pytest.raises(UserError, match="not of several films"):
        evaluate(Constant(), Toy(), resample="films")
    with pytest.raises(UserError, match="'clips' or 'films', not 'days'"):
        evaluate(Constant(), Toy(), resample="days")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_intervals_do_not_hang_on_batches(batch_size: int) -> None:
    whole, parts = (evaluate(Constant(), Toy(), batch_size=size, skill="persistence") for size in (7, batch_size))
    for name, by_score in whole.scores.items():
        for score, numbers in by_score.items():
            other = parts.scores[name][score]
            assert numbers["interval"][0] < numbers["mean"] < numbers["interval"][1]
            for key in ("interval", "per_lead_interval"):
                np.testing.assert_allclose(other[key], numbers[key], rtol=1e-6)
    assert whole.selected == parts.selected and whole.predictors == parts.predictors
    one = evaluate(Constant(), Toy(), limit=1).scores["constant"]["mse"]
    assert math.isfinite(one["mean"]) and np.isnan(one["interval"]).all()


def test_scores_of_single_clips() -> None:
    data = Toy(missing=0.2)
    scores = evaluate(Constant(5.0), data, scores=["mse", "psnr"], baselines=False, batch_size=2)
    truth = data.physical()[:, CONTEXT:]
    errors = np.nanmean((5.0 - truth) ** 2, axis=(1, 2, 3, 4))
    np.testing.assert_allclose(scores.per_clip["constant"]["mse"], errors, rtol=1e-5)
    assert scores.per_clip["constant"]["mse"].dtype == np.float64
    order = np.argsort(errors)
    assert scores.selected["mse"] == {"constant": {"best": order[0], "median": order[3], "worst": order[6]}}
    frames = 10 * np.log10(25.0**2 / np.nanmean((5.0 - truth) ** 2, axis=(2, 3, 4))).mean(1)
    order = np.argsort(-frames)
    assert scores.selected["psnr"]["constant"] == {"best": order[0], "median": order[3], "worst": order[6]}
    np.testing.assert_allclose(scores.per_clip["constant"]["psnr"], frames, rtol=1e-5)


def test_clips_without_a_score_are_not_selected_and_of_equal_ones_the_first_is() -> None:
    data = Toy(missing=0.0)
    data.frames[2, CONTEXT:] = 255  # missing altogether
    data.frames[[0, 1, 3, 4, 5, 6]] = data.frames[0]
    scores = evaluate(Constant(5.0), data, scores=["mse"], baselines=False)
    assert math.isnan(scores.per_clip["constant"]["mse"][2])
    assert scores.selected["mse"]["constant"] == {"best": 0, "median": 3, "worst": 0}


def test_what_was_scored_is_told(tmp_path: Path) -> None:
    network = create_network("convlstm", channels=1, hidden=[2], kernel_size=3, patch_size=4)
    settings = {"hidden": [2], "kernel_size": 3, "patch_size": 4}
    predictor = Predictor(network, SPEC, CONTEXT, HORIZON, network_name="convlstm", network_settings=settings, provenance={"run": "a"})
    data = Toy()
    scores = evaluate([predictor, TrainingMean.of(Toy(seed=4, missing=0.0)), Constant()], data, save_forecasts=None)
    about = scores.predictors["convlstm"]
    weights = sum(weight.numel() for weight in network.parameters())
    assert (about["kind"], about["network"], about["weights"], about["provenance"]) == ("predictor", "convlstm", weights, {"run": "a"})
    assert scores.predictors["persistence"] == {"kind": "baseline", "network": None, "weights": None, "hash": None, "provenance": {}}
    assert scores.predictors["training-mean"]["hash"] != about["hash"] and len(about["hash"]) == 32
    assert scores.predictors["constant"]["kind"] == "predictor" and scores.time_step == 300.0

    predictor.save(tmp_path / "same.safetensors")
    evaluate(tmp_path / "same.safetensors", data, save_forecasts=tmp_path / "saved.h5", baselines=False)
    again = evaluate([tmp_path / "same.safetensors", tmp_path / "saved.h5"], data, baselines=False).predictors
    assert again["same.safetensors"]["hash"] == about["hash"], "the same weights under another name"
    assert again["saved.h5"]["kind"] == "forecasts" and again["saved.h5"]["provenance"]["predictor"] == "same.safetensors"
    with torch.no_grad():
        next(network.parameters()).add_(1e-3)
    assert evaluate(predictor, data, baselines=False).predictors["convlstm"]["hash"] != about["hash"]


def test_protocols_say_what_is_scored_and_how() -> None:
    over = evaluate(Constant(30.0), Toy(missing=0.0), "openstl", baselines=False)  # 25 is the greatest value that is scaled to 1
    truth = Toy(missing=0.0).physical()[:, CONTEXT:] / 25.0
    assert over.protocol == "openstl" and list(over.scores["constant"])[:1] == ["mse_sum"]
    assert over.scores["constant"]["mse_sum"]["mean"] == pytest.approx(((1.2 - truth) ** 2).sum((2, 3, 4)).mean(), rel=1e-5)
    clipped = 10 * np.log10(1 / np.mean((1.0 - truth) ** 2, axis=(2, 3, 4))).mean()
    assert over.scores["constant"]["psnr"]["mean"] == pytest.approx(clipped, rel=1e-5)
    with pytest.raises(UserError, match="The protocol 'openstl' does not say how 'fss' is scored, but only mse_sum"):
        evaluate(Constant(), Toy(), "openstl", scores=["fss"])
    with pytest.raises(UserError, match="'meteonet'"):
        evaluate(Constant(), Rain(), "meteonet", units="mm/h")


def test_clips_are_told_by_film_and_time(tmp_path: Path, knmi_files: ModuleType) -> None:
    knmi_files.write_sample(tmp_path, frames=40)
    data = load_data("knmi", tmp_path, "test", context=3, horizon=2, crop=[0, 0, 16, 20])
    scores = evaluate("persistence", data, scores=["mse"], baselines=False, limit=2, batch_size=1)
    scores.write_clips(tmp_path / "clips.csv")
    rows = [line.split(",") for line in (tmp_path / "clips.csv").read_text().splitlines()]
    assert rows[0] == ["predictor", "clip", "film", "start", "mse"]
    for clip, row in enumerate(rows[1:]):
        times = data[clip].times
        assert times is not None and row[:4] == ["persistence", str(clip), data.reader.films[0].name, str(times[0])]
    assert scores.time_step == 300.0


def test_films_of_sets_that_are_joined() -> None:
    class Named(Rain):
        reader = SimpleNamespace(films=[Film(name, 9) for name in "abc"])

    joined = Together("both", "test", [Named(clips=7), Named(clips=4)])
    numbers = film_numbers(joined, 10)
    assert numbers is not None and numbers.tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 3, 3]
    assert [film_name(joined, clip) for clip in (0, 3, 6, 7, 10)] == ["toy: a", "toy: b", "toy: c", "toy: a", "toy: b"]
    assert film_numbers(Together("both", "test", [Toy(), Toy()]), 3) is None and film_name(Toy(), 0) == ""
    scores = evaluate(Constant(), joined, scores=["mse"], baselines=False, resample="films", limit=9)
    assert scores.films[6:] == ("toy: c", "toy: a", "toy: a")


def test_published_figures_stand_beside_those_of_the_same_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = Benchmark("Toys", "toy", "https://example.org/toys", CONTEXT, HORIZON, (1, 12, 16), "toy", "test", convention=PIXEL_MEANS)
    entry = replace(CATALOGUE["mmnist_convlstm_one_ep200"], name="toy", benchmark=benchmark, scores={"mse": 12.5, "mae": 2.5})
    monkeypatch.setitem(CATALOGUE, "toy", entry)
    beside = {"convlstm, 200 epochs (toy)": {"page": "https://example.org/toys", "scores": {"mse": 12.5}}}
    scores = evaluate(Constant(), Toy(), scores=["mse", "psnr"], baselines=False)
    assert scores.published == beside == scores.to_dict()["published"]
    assert "| convlstm, 200 epochs (toy) (published) | 12.50 | nan |" in scores.markdown()
    assert "published" not in evaluate(Constant(), Toy(), scores=["mse"], baselines=False, limit=6).to_dict()
    assert not evaluate(Constant(), Toy(), "openstl", scores=["mse"], baselines=False).published
