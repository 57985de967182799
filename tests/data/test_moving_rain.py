import sys
from datetime import datetime, timedelta
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
import torch

import stpredict
from stpredict.data.checking import check_data
from stpredict.data.readers.odim import Odim

pytest.importorskip("pyproj")
GENERATOR = Path(__file__).resolve().parents[2] / "datasets" / "generators" / "moving_rain.py"
EVENTS, FRAMES, SIZE = 6, 30, 32


@pytest.fixture(scope="module")
def rain():
    return run_path(str(GENERATOR))


@pytest.fixture(scope="module")
def archive(rain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rain")
    rain["write_sample"](folder, EVENTS, FRAMES, SIZE)
    return folder


def test_the_files_hold_what_was_made_to_their_hundredth(rain, archive):
    reader = Odim(archive, quantity="RATE", films="folders")
    assert [film.name for film in reader.films] == [f"event-{number:02}" for number in range(1, EVENTS + 1)]
    for event, film in enumerate(reader.films):
        made = rain["make_event"](event, FRAMES, SIZE)
        gaps = rain["missing_frames"](event, FRAMES)
        there = [number for number in range(FRAMES) if number not in gaps]
        start = datetime(2020, 5, 1 + event, 12)
        assert film.times.tolist() == [start + timedelta(minutes=5 * number) for number in there]
        read = reader.packing.unpack(torch.from_numpy(reader.read(event, range(film.length))))[:, 0].numpy()
        np.testing.assert_allclose(read, made[there], rtol=0, atol=0.00501)
    left, bottom, right, top = reader.facts["grid"].corners
    assert (right - left, top - bottom) == (2000.0 * SIZE, 2000.0 * SIZE)


def test_an_event_is_a_function_of_its_number_and_the_seed(rain):
    first = rain["make_event"](1, 4, SIZE)
    np.testing.assert_array_equal(first, rain["make_event"](1, 4, SIZE))
    for other in (rain["make_event"](2, 4, SIZE), rain["make_event"](1, 4, SIZE, seed=1)):
        assert not np.array_equal(np.nan_to_num(first), np.nan_to_num(other))


def test_the_numbers_stay_what_they_are(rain):
    """Sums that this version made; the land, the wind and the cells of published trials hang on them."""
    film = rain["make_event"](0, 6, SIZE).astype(np.float64)
    np.testing.assert_allclose(np.nansum(film, axis=(1, 2)), SUMS, rtol=1e-4)


SUMS = [18.752, 49.303, 90.962, 142.570, 199.271, 258.249]


def test_rain_moves_with_the_wind(rain):
    """The shift by which a frame fits the next but two best is the wind's, to a pixel, and beats no shift clearly."""
    size = 64
    factor, _ = rain["make_land"](size)
    for event in (0, 1, 4):
        film = np.nan_to_num(rain["make_event"](event, 12, size)) / factor
        speed, heading, *_ = rain["uniform"](0, "wind", event, 4, 0.0, 1.0)
        speed, heading = 0.8 + 1.4 * speed, 2 * np.pi * heading
        wind = 3 * speed * np.array([np.sin(heading), np.cos(heading)])
        inside = (slice(14, 50), slice(14, 50))
        errors = {}
        for down in range(-8, 9):
            for right in range(-8, 9):
                shifted = np.roll(film[:-3], (down, right), axis=(1, 2))
                errors[down, right] = float(((np.sqrt(film[3:]) - np.sqrt(shifted))[:, *inside] ** 2).mean())
        best = min(errors, key=errors.get)
        assert np.abs(np.array(best) - wind).max() <= 1.0, (best, wind)
        assert 0.1 * errors[0, 0] < errors[best] < 0.7 * errors[0, 0], "cells grow and decay, so the shift is not all"


def test_the_land_is_the_same_in_every_event(rain):
    factor, unseen = rain["make_land"](64)
    assert 0.05 < unseen.mean() < 0.2 and factor.min() < 0.3 and factor.max() > 1.2
    for event in range(3):
        film = rain["make_event"](event, 3, 64)
        np.testing.assert_array_equal(np.isnan(film), np.broadcast_to(unseen, film.shape))


def test_dry_pixels_rain_and_a_dry_spell(rain):
    wet = {event: np.nanmean(rain["make_event"](event, 30, SIZE) > 0, axis=(1, 2)) for event in (0, rain["DRY_EVENT"])}
    assert (wet[rain["DRY_EVENT"]][10:20] == 0).all() and wet[rain["DRY_EVENT"]][:10].min() > 0
    assert 0.02 < wet[0].mean() < 0.8
    values = rain["make_event"](0, 10, SIZE)
    assert values[values > 0].min() >= 0.1 and np.nanmax(values) < 655


def test_the_card_cuts_clips_around_gaps_and_by_event(rain, archive):
    report = check_data("moving_rain", archive)
    gaps = sum(bool(rain["missing_frames"](event, FRAMES)) for event in range(EVENTS))
    assert report.ok and report.gaps == gaps > 0 and set(report.clips) == {"train", "validation", "test"}
    seen = {}
    for split in report.clips:
        clips = stpredict.load_data("moving_rain", archive, split)
        seen[split] = {clip.name.partition(",")[0] for clip in (clips[index] for index in range(len(clips)))}
        assert all((np.diff(clips[index].times) == np.timedelta64(300, "s")).all() for index in range(len(clips)))
        assert clips.spec.units == "mm/h" and clips.spec.time_step == 300.0 and clips.spec.grid is not None
    assert seen["train"] == {"event-01", "event-02", "event-03", "event-04"} and seen["validation"] | seen["test"] == {
        "event-05",
        "event-06",
    }


def test_the_command(tmp_path, monkeypatch):
    options = ["--events", "1", "--frames", "3", "--size", "16", "--seed", "5"]
    monkeypatch.setattr(sys, "argv", [str(GENERATOR), str(tmp_path), *options])
    run_path(str(GENERATOR), run_name="__main__")
    assert 1 <= len(list(tmp_path.rglob("*.h5"))) <= 3
    assert (Odim(tmp_path).height, Odim(tmp_path).width) == (16, 16)
