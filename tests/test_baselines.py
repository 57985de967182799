import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stpredict.baselines import BASELINES, Baseline, ContextMean, Extrapolation, Persistence, TrainingMean
from stpredict.data.clips import ClipSet
from stpredict.errors import UserError
from stpredict.frames import Clip, FrameSpec, Packing

NAN = math.nan


class Toy(ClipSet):
    card, split, packing, context, horizon = "toy", "train", Packing(scale=0.5, offset=-1.0, missing=(255,)), 2, 1

    def __init__(self, frames: NDArray[np.uint8]) -> None:
        self.frames, self.spec, self.asked = frames, FrameSpec(*frames.shape[2:]), list[int]()

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Clip:
        self.asked.append(index)
        return Clip(self.frames[index])


def films(seed: int = 0) -> NDArray[np.float32]:
    """Return ``(2, 5, 2, 3, 4)`` with a third missing, one pixel always."""
    random = np.random.default_rng(seed)
    frames = random.normal(size=(2, 5, 2, 3, 4)).astype(np.float32)
    frames[random.random(frames.shape) < 0.35] = np.nan
    frames[1, :, 0, 2, 3] = np.nan
    return frames


def every_baseline() -> list[Baseline]:
    return [Persistence(), Extrapolation(), ContextMean(), TrainingMean(torch.arange(24.0).reshape(2, 3, 4))]


def test_persistence_keeps_the_newest_valid_value() -> None:
    observed = films()
    forecast = Persistence().forecast(observed, 3)
    assert forecast.shape == (2, 3, 2, 3, 4) and forecast.dtype == np.float32
    for place in np.ndindex(2, 2, 3, 4):
        seen = observed[(place[0], slice(None), *place[1:])]
        seen = seen[~np.isnan(seen)]
        wanted = seen[-1] if len(seen) else np.nan
        np.testing.assert_array_equal(forecast[(place[0], slice(None), *place[1:])], [wanted] * 3)
    assert np.isnan(forecast[1, :, 0, 2, 3]).all() and not np.isnan(observed[:, -1]).all()


def showers(count: int) -> torch.Tensor:
    """Return ``(1, count, 1, 48, 64)``: showers that move two pixels to the right and one up."""
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    random = torch.Generator().manual_seed(0)
    film = torch.zeros(1, count, 1, 48, 64)
    for _ in range(40):
        row, column, width, peak = (torch.rand(4, generator=random) * torch.tensor([70.0, 90, 3, 9])).tolist()
        for time in range(count):
            film[0, time, 0] += peak * torch.exp(
                -((rows - row + 10 + time) ** 2 + (columns - column + 15 - 2 * time) ** 2) / (width + 2) ** 2
            )
    return film


def test_extrapolation_carries_the_last_frame_on() -> None:
    film = showers(7)
    forecast = Extrapolation().forecast(film[:, :3], 4)
    errors, still = ((frames - film[:, 3:]).abs() for frames in (forecast, Persistence().forecast(film[:, :3], 4)))
    inside = (..., slice(0, -6), slice(12, None))
    assert forecast.shape == film[:, 3:].shape and errors[inside].mean() < 0.1 * still[inside].mean()
    assert forecast[:, -1, :, :, :6].isnan().all() and forecast[:, -1, :, -3:].isnan().all() and not forecast[inside].isnan().any()


def test_extrapolation_fills_a_gap_from_where_it_was_seen() -> None:
    film = showers(7)
    whole = Extrapolation().forecast(film[:, :3], 4)
    film[:, 2, :, 20:24, 30:34] = NAN
    holed = Extrapolation().forecast(film[:, :3], 4)
    assert (holed - whole)[..., 8:-10, 14:].abs().max() < 0.1 * film.nan_to_num().max()
    film[:, 2] = NAN
    lost = Extrapolation().forecast(film[:, :3], 4)
    assert (lost - whole)[..., 8:-10, 14:].abs().mean() < 0.1 * film.nan_to_num().mean()


def test_extrapolation_follows_the_newest_frames_alone() -> None:
    film = showers(8)
    stream = Extrapolation().start(film[:, :1].flip(3))
    for time in range(3, 8):
        stream.observe(film[:, time])
    torch.testing.assert_close(stream.forecast(5), Extrapolation().forecast(film[:, -3:], 5), equal_nan=True, atol=0, rtol=0)


def test_extrapolation_of_one_frame_or_of_one_that_stays_is_persistence() -> None:
    film = showers(2)
    for observed in (film[:, :1], film[:, :1].repeat(1, 3, 1, 1, 1)):
        torch.testing.assert_close(Extrapolation().forecast(observed, 3), Persistence().forecast(observed, 3), atol=1e-3, rtol=0)


def test_channels_move_together() -> None:
    film = showers(3)
    both = Extrapolation().forecast(torch.cat([film, 2 * film + 1], 2), 3)
    torch.testing.assert_close(both[:, :, 1], 2 * both[:, :, 0] + 1, equal_nan=True)


def test_context_mean_is_the_mean_of_the_valid_values() -> None:
    observed = films()
    forecast = ContextMean().forecast(observed, 2)
    with pytest.warns(RuntimeWarning, match="empty slice"):
        wanted = np.nanmean(observed.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(forecast, np.repeat(wanted, 2, axis=1), rtol=1e-6)


def test_training_mean_is_the_mean_over_the_valid_frames_of_a_split() -> None:
    packed = np.random.default_rng(1).integers(0, 256, (7, 3, 1, 2, 2), dtype=np.uint8)
    packed[2:5, :, 0, 0, 0] = 255
    packed[:, :, 0, 1, 1] = 255
    mean = TrainingMean.of(Toy(packed)).mean_frame
    physical = np.where(packed == 255, np.nan, packed * 0.5 - 1.0)
    assert mean is not None and torch.isnan(mean[0, 1, 1])
    np.testing.assert_allclose(mean.flatten()[:3], np.nanmean(physical.reshape(21, 4)[:, :3], axis=0), rtol=1e-6)


def test_training_mean_sees_at_most_limit_clips_spread_over_the_split() -> None:
    clips = Toy(np.zeros((10, 3, 1, 2, 2), dtype=np.uint8))
    TrainingMean.of(clips, limit=4)
    assert clips.asked == [0, 2, 5, 7]
    with pytest.raises(UserError, match="'train' of 'toy' holds no clip"):
        TrainingMean.of(Toy(np.zeros((0, 3, 1, 2, 2), dtype=np.uint8)))


def test_training_mean_repeats_its_frame() -> None:
    mean = torch.arange(24.0).reshape(2, 3, 4)
    forecast = TrainingMean(mean).forecast(torch.zeros(2, 1, 2, 3, 4), 2)
    torch.testing.assert_close(forecast, mean.expand(2, 2, 2, 3, 4))
    with pytest.raises(UserError, match="2 x 3 x 4 and the observed frames are 1 x 3 x 4"):
        TrainingMean(mean).forecast(torch.zeros(2, 1, 1, 3, 4), 2)
    with pytest.raises(UserError, match="seen no training clips"):
        TrainingMean().forecast(torch.zeros(2, 1, 1, 3, 4), 2)


@pytest.mark.parametrize("baseline", every_baseline(), ids=lambda baseline: baseline.name)
def test_the_answer_is_of_the_kind_of_the_question(baseline: Baseline) -> None:
    observed = films()
    array = baseline.forecast(observed, 3)
    tensor = baseline.forecast(torch.from_numpy(observed), 3, known=torch.zeros(2, 8, 1, 3, 4))
    assert isinstance(array, np.ndarray) and isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(array, tensor)
    members = baseline.forecast(observed, 3, members=4)
    np.testing.assert_array_equal(members, np.repeat(array[:, None], 4, axis=1))
    assert (baseline.spec, baseline.context, baseline.horizon) == (None, None, None)


@pytest.mark.parametrize("baseline", every_baseline(), ids=lambda baseline: baseline.name)
@pytest.mark.parametrize("started_with", [1, 3, 5])
def test_a_stream_equals_a_forecast_from_all_frames_seen(baseline: Baseline, started_with: int) -> None:
    observed = films()
    stream = baseline.start(observed[:, :started_with])
    for lead in range(started_with, 5):
        stream.forecast(2)
        stream.observe(observed[:, lead])
    np.testing.assert_allclose(stream.forecast(2), baseline.forecast(observed, 2), rtol=1e-6)


def test_impossible_questions_are_refused() -> None:
    frames = torch.zeros(2, 3, 1, 4, 4)
    with pytest.raises(UserError, match=r"not of shape \(3, 1, 4, 4\)"):
        Persistence().forecast(frames[0], 1)
    with pytest.raises(UserError, match="horizon must be at least 1 frame, not 0"):
        ContextMean().forecast(frames, 0)
    with pytest.raises(UserError, match="at least one member, not 0"):
        Persistence().forecast(frames, 1, members=0)
    with pytest.raises(UserError, match=r"takes frames of shape \(2, 1, 4, 4\), not \(2, 1, 4, 5\)"):
        Persistence().start(frames).observe(torch.zeros(2, 1, 4, 5))


def test_the_table_makes_each_by_its_name() -> None:
    assert list(BASELINES) == ["persistence", "extrapolation", "context-mean", "training-mean"]
    assert all(kind().name == name for name, kind in BASELINES.items())
