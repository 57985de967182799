"""Each protocol against its convention, worked out here by numpy and scikit-image as its description has it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from stpredict.data.clips import ClipSet
from stpredict.errors import UserError
from stpredict.evaluation import evaluate
from stpredict.frames import Clip, FrameSpec, Packing, Transform
from stpredict.metrics import FURTHER_SCORES, SCORES, RunningScore, create_scores
from stpredict.protocols import PROTOCOLS, Treatment, check_protocol, find_protocol
from stpredict.weights import import_predictor

GOLDENS = Path(__file__).resolve().parents[1] / ".." / "shared" / "goldens"
Films = NDArray[np.float32]


class Given(ClipSet):
    """Clips that are films ``(N, T, C, H, W)``."""

    card, split = "given", "test"

    def __init__(self, films: Films, context: int, spec: FrameSpec | None = None) -> None:
        self.films, self.context, self.horizon = films, context, films.shape[1] - context
        self.spec, self.packing = spec or FrameSpec(*films.shape[2:]), Packing(missing=(math.nan,))

    def __len__(self) -> int:
        return len(self.films)

    def __getitem__(self, index: int) -> Clip:
        return Clip(self.films[index])


def pairs(shape: tuple[int, ...], seed: int = 0, missing: float = 0.0) -> tuple[Films, Films]:
    """Return forecasts that leave [0, 1] here and there, and the truth, which is missing in places and once for a whole frame."""
    random = np.random.default_rng(seed)
    truth = random.random(shape, np.float32)
    forecast = (truth + random.normal(0, 0.4, shape)).astype(np.float32)
    if missing:
        truth[random.random(shape) < missing] = np.nan
        truth[0, 1] = np.nan
    return forecast, truth


def scored(protocol: str, forecast: Films, truth: Films, spec: FrameSpec, scores: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Return each score of a protocol, clip after clip, as the evaluation adds them up."""
    rules = PROTOCOLS[protocol]
    running = {}
    for score in create_scores(scores or rules.scores):
        running[score.name] = RunningScore(truth.shape[1], score)
        for some in zip(torch.from_numpy(forecast).split(1), torch.from_numpy(truth).split(1), strict=True):
            running[score.name].add(*score(*rules.treat(score.name, *some, spec), spec))
    return running


def means(protocol: str, *given: Any) -> dict[str, float]:
    return {name: running.mean() for name, running in scored(protocol, *given).items()}


def similarity(forecast: NDArray[Any], truth: NDArray[Any], **options: Any) -> float:
    """Return scikit-image's default index of each frame ``(C, H, W)`` of many, then the mean; windows count by their centres."""
    found = []
    for told, came in zip(forecast.reshape(-1, *forecast.shape[2:]), truth.reshape(-1, *truth.shape[2:]), strict=True):
        there = ~np.isnan(came)[:, 3:-3, 3:-3]
        filled = (np.where(np.isnan(came), 0, frame) for frame in (told, came))
        full = structural_similarity(*filled, channel_axis=0, full=True, **options)[1][:, 3:-3, 3:-3]
        if there.any():
            found.append(full[there].mean())
    return float(np.mean(found))


def by_openstl(forecast: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
    """Return OpenSTL's figures of frames ``(N, T, C, H, W)`` in [0, 1]; what is missing counts nowhere, and nor does an empty frame."""
    there = (~np.isnan(truth)).any((2, 3, 4)).sum()
    error = forecast.astype(np.float64) - truth
    mse, mae = np.nansum(error**2) / there, np.nansum(np.abs(error)) / there
    clipped = np.minimum(np.maximum(forecast, 0), 1).astype(np.float64)
    of_frames = [np.nanmean(frame**2) for frame in (clipped - truth).reshape(-1, *truth.shape[2:]) if not np.isnan(frame).all()]
    psnr = np.mean([20 * np.log10(1 / np.sqrt(one)) for one in of_frames])
    ssim = similarity(clipped, truth.astype(np.float64), data_range=2)
    return {"mse_sum": mse, "mae_sum": mae, "rmse_sum": math.sqrt(mse), "ssim_range2": ssim, "psnr": float(psnr)}


@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("channels", [1, 3])
def test_openstl(channels: int, missing: float) -> None:
    forecast, truth = pairs((3, 4, channels, 20, 24), missing=missing)
    spec = FrameSpec(channels, 20, 24)
    wanted = by_openstl(forecast, truth)
    assert means("openstl", forecast, truth, spec) == pytest.approx(wanted, rel=1e-6, abs=1e-6)
    assert set(wanted) == set(PROTOCOLS["openstl"].scores or ())
    pixels = means("per-pixel", forecast, truth, spec, tuple(wanted))
    changed = {name for name in wanted if abs(pixels[name] / wanted[name] - 1) > 1e-3}
    assert changed == {"ssim_range2", "psnr"}, "sums are of forecasts as they are"
    bright = FrameSpec(channels, 20, 24, transform=Transform(high=250.0))
    assert means("openstl", *(film * 250 for film in (forecast, truth)), bright) == pytest.approx(wanted, rel=1e-5)


def by_predrnn(forecast: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
    """Return predrnn-pytorch's figures of whole frames ``(N, T, C, H, W)`` in [0, 1]."""
    clipped = np.minimum(np.maximum(forecast, 0), 1)
    mse = np.mean(np.square(truth.astype(np.float64) - clipped).sum((2, 3, 4)))
    told, came = np.uint8(clipped * 255), np.uint8(truth * 255)
    mean_squares = np.mean((told.astype(np.int32) - came) ** 2, axis=(2, 3, 4))
    frames = zip(told.reshape(-1, *told.shape[2:]), came.reshape(-1, *told.shape[2:]), strict=True)
    ssim = np.mean([structural_similarity(*both, channel_axis=0) for both in frames])  # of uint8, of which it knows the range
    return {"mse_sum": mse, "ssim_uniform": float(ssim), "psnr": float(np.mean(20 * np.log10(255) - 10 * np.log10(mean_squares)))}


@pytest.mark.parametrize("channels", [1, 3])
def test_predrnn(channels: int) -> None:
    forecast, truth = pairs((3, 4, channels, 20, 24))
    spec = FrameSpec(channels, 20, 24)
    wanted = by_predrnn(forecast, truth)
    assert means("predrnn", forecast, truth, spec) == pytest.approx(wanted, rel=1e-6, abs=1e-6)
    rounded = (np.clip(forecast, 0, 1) * 255).round() / np.float32(255)
    assert abs(by_predrnn(rounded, truth)["psnr"] - wanted["psnr"]) > 1e-4, "rounding down is not rounding"
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 1, 16, 16)
    film = Packing(scale=1 / 255).unpack(torch.from_numpy(pixels))
    (same, _) = Treatment(levels=True)(film, film, spec)
    assert torch.equal((same * 255).round().to(torch.uint8), torch.from_numpy(pixels)), "what was 8 bits stays what it was"


def test_predrnn_of_masked_frames() -> None:
    forecast, truth = pairs((2, 3, 1, 20, 24), missing=0.1)
    levels = [np.floor(np.clip(film, 0, 1) * np.float32(255)) for film in (forecast, truth)]
    error = (levels[0] - levels[1]).reshape(-1, 480)
    psnr = np.mean([10 * np.log10(255**2 / np.nanmean(frame**2)) for frame in error if not np.isnan(frame).all()])
    squares = (np.clip(forecast, 0, 1).astype(np.float64) - truth) ** 2
    wanted = {"mse_sum": np.nansum(squares) / 5, "ssim_uniform": similarity(*levels, data_range=255), "psnr": psnr}
    assert means("predrnn", forecast, truth, FrameSpec(1, 20, 24)) == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def counts(told: NDArray[Any], came: NDArray[Any]) -> NDArray[Any]:
    """Return hits, misses, false alarms and correct rejections of each lead, ``(4, T)``, of events; NaN = missing."""
    there = ~np.isnan(came)
    told, came = told > 0, came > 0
    kinds = (told & came, ~told & came, told & ~came, ~told & ~came)
    return np.stack([(kind & there).sum((0, 2, 3, 4)) for kind in kinds]).astype(float)


def events(films: NDArray[Any], threshold: float) -> NDArray[Any]:
    return np.where(np.isnan(films), np.nan, films >= threshold)


def pooled(films: NDArray[Any], side: int) -> NDArray[Any]:
    """Return the greatest values of squares that do not overlap; NaN where a square has none."""
    *lead, height, width = films.shape
    squares = films[..., : height // side * side, : width // side * side].reshape(*lead, height // side, side, width // side, side)
    return np.fmax.reduce(np.fmax.reduce(squares, -1), -2)


SEVIR = FrameSpec(1, 48, 48, transform=Transform(high=255.0), minimum=0.0, thresholds=(16, 74, 133, 160, 181, 219))


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_sevir(missing: float) -> None:
    forecast, truth = (film * 255 for film in pairs((2, 12, 1, 48, 48), missing=missing))
    truth = np.round(truth)
    wanted = {"mse": np.nanmean(((forecast.astype(np.float64) - truth) / 255) ** 2)}
    for name, side in (("csi", 1), ("csi_pool4", 4), ("csi_pool16", 16)):
        told, came = (pooled(np.where(np.isnan(truth), np.nan, film), side) for film in (forecast, truth))
        by_lead = np.stack([counts(*(events(film, threshold) for film in (told, came))) for threshold in (16, 74, 133, 160, 181, 219)])
        hits, misses, false_alarms, _ = by_lead.sum(2).T
        wanted[name] = (hits / (hits + misses + false_alarms)).mean()
        if side == 1:
            hits, misses, false_alarms, _ = np.moveaxis(by_lead, 1, 0)
            wanted["csi_per_lead"] = (hits / (hits + misses + false_alarms)).mean()
    assert means("sevir", forecast, truth, SEVIR) == pytest.approx(wanted, rel=1e-6)
    assert wanted["mse"] < 1


A, B = 58.53, 1.56
RATES = (0.5, 2.0, 5.0, 10.0, 30.0)


def rate(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Return the rain rate of HKO-7's pixels 0 to 1."""
    return np.asarray(10 ** ((70 * pixels.astype(np.float64) - 10 - 10 * np.log10(A)) / B / 10))


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_hko7(missing: float) -> None:
    forecast, truth = pairs((2, 5, 1, 24, 24), missing=missing)
    forecast = forecast * 1.2
    shown = np.clip(forecast, 0, 1).astype(np.float64)
    thresholds = [(10 * B * math.log10(one) + 10 * math.log10(A) + 10) / 70 for one in RATES]
    by_lead = np.stack([counts(events(shown, one), events(truth, one)) for one in thresholds])
    hits, misses, false_alarms, rejections = np.moveaxis(by_lead, 1, 0)
    skill = 2 * (hits * rejections - misses * false_alarms)
    skill /= (hits + misses) * (misses + rejections) + (hits + false_alarms) * (false_alarms + rejections)
    weights = np.ones(truth.shape)
    for threshold, more in zip(thresholds, np.diff([1, 1, 2, 5, 10, 30]), strict=True):
        weights = weights + more * (truth >= threshold)
    frames = (~np.isnan(truth)).any((2, 3, 4)).sum(0)
    error = shown - truth
    wanted = {
        "csi_per_lead": (hits / (hits + misses + false_alarms)).mean(),
        "hss_per_lead": skill.mean(),
        "balanced_mse": np.nansum(weights * error**2) / frames.sum(),
        "balanced_mae": np.nansum(weights * abs(error)) / frames.sum(),
    }
    low, high = (float(rate(np.array(end))) for end in (0.0, 1.0))
    scale = Transform("dbz", low, high)
    spec = FrameSpec(1, 24, 24, units="mm/h", transform=scale, minimum=0.0, z_r=(A, B), thresholds=RATES)
    films = [rate(film).astype(np.float32) for film in (forecast, truth)]
    assert means("hko7", *films, spec) == pytest.approx(wanted, rel=1e-5)
    running = scored("hko7", *films, spec)["csi_per_lead"]
    np.testing.assert_allclose(running.per_lead(), (hits / (hits + misses + false_alarms)).mean(0), rtol=1e-6)


@pytest.mark.parametrize(("name", "high"), [("meteonet", 70.0), ("shanghai", 90.0)])
def test_events_in_dbz(name: str, high: float) -> None:
    forecast, truth = (film * high for film in pairs((2, 3, 1, 32, 32), missing=0.1))
    thresholds = PROTOCOLS[name].thresholds or ()
    spec = FrameSpec(1, 32, 32, units="dBZ", transform=Transform(high=high), thresholds=thresholds)
    found = scored(name, forecast, truth, spec)
    by_lead = np.stack([counts(*(events(film, threshold) for film in (forecast, truth))) for threshold in thresholds])
    hits, misses, false_alarms, rejections = by_lead.sum(2).T
    np.testing.assert_allclose(found["csi"].parts(), hits / (hits + misses + false_alarms), rtol=1e-9)
    chance = (hits + misses) * (misses + rejections) + (hits + false_alarms) * (false_alarms + rejections)
    np.testing.assert_allclose(found["hss"].parts(), 2 * (hits * rejections - misses * false_alarms) / chance, rtol=1e-9)


CASES = {
    "openstl0_convlstm": {"patch_size": 4, "context": 4},
    "openstl0_convlstm_latest": {"channels": 3, "context": 4},
    "openstl1_predrnn": {},
    "openstl1_e3d": {},
    "openstl1_simvp_gsta": {},
}


@pytest.mark.skipif(not GOLDENS.is_dir(), reason="the golden checkpoints of other implementations are not here")
@pytest.mark.parametrize("case", CASES)
def test_an_imported_predictor_is_scored_as_openstl_does(case: str) -> None:
    meta = json.loads((GOLDENS / case / "meta.json").read_text())
    arrays = dict(np.load(GOLDENS / case / "golden.npz"))
    predictor = import_predictor(GOLDENS / case / meta["checkpoint"], **CASES[case])
    films = np.moveaxis(arrays["frames"], -1, 2).astype(np.float32)
    horizon = arrays["forecast"].shape[1] if "forecast" in arrays else films.shape[1] - predictor.context
    wide = np.random.default_rng(0).random((4, predictor.context + horizon, *films.shape[2:]), np.float32)
    length = min(films.shape[1], wide.shape[1])
    wide[: len(films), :length] = films[:4, :length]
    data = Given(wide, predictor.context)
    scores = evaluate(predictor, data, "openstl", baselines=False, batch_size=3, device="cpu")
    (found,) = scores.scores.values()
    forecast = predictor.forecast(wide[:, : predictor.context], horizon)
    wanted = by_openstl(forecast, wide[:, predictor.context :])
    assert {name: found[name]["mean"] for name in wanted} == pytest.approx(wanted, rel=1e-6, abs=1e-6)
    assert scores.protocol == "openstl" and set(found) == set(wanted)


def test_every_protocol_can_be_had_and_knows_its_scores() -> None:
    known = SCORES | FURTHER_SCORES
    assert list(PROTOCOLS)[:5] == ["per-pixel", "openstl", "predrnn", "sevir", "hko7"]
    for name, protocol in PROTOCOLS.items():
        assert find_protocol(name) is protocol and protocol.name == name and protocol.about
        assert {*(protocol.scores or ()), *protocol.treatments} <= known.keys()
        assert not {"lpips", "lpips_unscaled"} & set(protocol.scores or ()), "they take files that a user may not have"
    assert find_protocol(None).name == "per-pixel"
    assert "lpips" in PROTOCOLS["openstl"].treatments and "lpips_unscaled" in PROTOCOLS["predrnn"].treatments, "they can be asked for"
    with pytest.raises(UserError, match="There is no protocol 'openslt'; did you mean 'openstl'"):
        find_protocol("openslt")


FILMS = hypothesis.extra.numpy.arrays(np.float32, (2, 1, 2, 1, 3, 4), elements=st.floats(-1, 2, width=32) | st.just(math.nan))


def test_lpips_is_of_clipped_forecasts() -> None:
    forecast, truth = (torch.from_numpy(film) for film in pairs((1, 1, 1, 8, 8)))
    for name, score in (("openstl", "lpips"), ("predrnn", "lpips_unscaled")):
        told, came = PROTOCOLS[name].treat(score, forecast, truth, FrameSpec(1, 8, 8))
        assert torch.equal(told, forecast.clamp(0, 1)) and came is truth


@given(FILMS, st.sampled_from(sorted(PROTOCOLS)), st.sampled_from(sorted(SCORES | FURTHER_SCORES)))
def test_treatments_keep_what_is_missing_and_the_range(films: Films, name: str, score: str) -> None:
    forecast, truth = torch.from_numpy(films).unbind()
    protocol, spec = PROTOCOLS[name], FrameSpec(1, 3, 4)
    told, came = protocol.treat(score, forecast, truth, spec)
    assert torch.equal(told.isnan(), forecast.isnan()) and torch.equal(came.isnan(), truth.isnan())
    treatment = protocol.treatment(score)
    if treatment.clip or treatment.levels:
        assert ((told >= 0) & (told <= 1) | told.isnan()).all()
    if not treatment.levels:
        assert came is truth, "nothing but 8 bits changes the truth of frames in [0, 1]"
    if treatment == Treatment():
        assert told is forecast
    again = protocol.treat(score, told, came, spec)
    for once, twice in zip((told, came), again, strict=True):
        torch.testing.assert_close(once, twice, rtol=0, atol=0, equal_nan=True)
    members = protocol.treat(score, torch.stack([forecast, truth], 1), truth, spec)[0]
    torch.testing.assert_close(members[:, 0], told, rtol=0, atol=0, equal_nan=True)


def test_data_that_cannot_be_scored_so() -> None:
    films = np.zeros((1, 25, 1, 48, 48), np.float32)
    sevir = Given(films, 13, SEVIR)
    rules = {name: PROTOCOLS[name] for name in PROTOCOLS}
    check_protocol(rules["sevir"], sevir, SEVIR)
    check_protocol(rules["openstl"], sevir, SEVIR)
    rain = FrameSpec(1, 48, 48, units="mm/h", transform=Transform("dbz", 0.1, 100.0), thresholds=RATES)
    hko7 = Given(films, 5, rain)
    warm = FrameSpec(1, 48, 48, units="dBZ", transform=Transform(low=-10.0, high=60.0))
    check_protocol(rules["hko7"], hko7, rain)
    refused: list[tuple[str, ClipSet, FrameSpec, str]] = [
        ("openstl", hko7, rain, "from 0 on that are scaled linearly, and those of 'given' are scaled by 'dbz': score 'given' by another"),
        ("predrnn", Given(films, 5, warm), warm, "for values from 0 on that are scaled linearly, and those of 'given' are from -10 to 60"),
        ("sevir", Given(films, 13), FrameSpec(1, 48, 48), "for values from 0 to 255, and those of 'given' are from 0 to 1"),
        ("sevir", Given(films, 12, SEVIR), SEVIR, r"for clips of 13 \+ 12 frames, not 12 \+ 13: ask for context 13"),
        ("sevir", Given(films[:, 1:], 13, SEVIR), SEVIR, r"of 13 \+ 12 frames, not 13 \+ 11: ask for horizon 12"),
        ("hko7", sevir, SEVIR, "scores in mm/h, not in 1: leave the units out"),
        ("hko7", hko7, FrameSpec(1, 48, 48, units="mm/h", thresholds=(0.5, 2)), "has the thresholds 0.5 2 5 10 30, not 0.5 2: leave"),
        ("hko7", hko7, FrameSpec(1, 48, 48, units="mm/h"), "not none"),
    ]
    for name, data, spec, words in refused:
        with pytest.raises(UserError, match=words):
            check_protocol(rules[name], data, spec)
