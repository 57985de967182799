import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpredict.data.card import Card, Clock, Frames, Window
from stpredict.data.clips import Film, Reader
from stpredict.data.spatial import Spatial
from stpredict.data.splits import Splits
from stpredict.data.windows import Windows
from stpredict.errors import UserError
from stpredict.frames import Grid, Packing, Transform

START = np.datetime64("2020-01-01T00:00", "s")
WHOLE = Splits("time", fractions={"all": 1.0})


class Numbered(Reader):
    """Every pixel of a frame is 1000 x film + position."""

    channels, height, width = 1, 2, 3

    def __init__(self, films, dtype="int16", facts=None):
        self.films, self.dtype, self.packing, self.facts = films, dtype, Packing(), facts or {}

    def read(self, film, positions):
        numbers = 1000 * film + np.array(positions)
        return np.broadcast_to(numbers[:, None, None, None], (len(positions), 1, 2, 3)).astype(self.dtype)


def card(window=(2, 3), splits=WHOLE, **more):
    return Card(name="numbers", reader="unused", window=Window(*window), splits=splits, **more)


def numbers(clips):
    return [clip.frames[:, 0, 0, 0].tolist() for clip in (clips[index] for index in range(len(clips)))]


def test_windows_without_a_clock():
    clips = Windows(card((1, 2, 2, 2)), Numbered([Film("a", 8), Film("b", 4), Film("c", 6)]), "all")
    assert numbers(clips) == [[0, 2, 4], [2, 4, 6], [2000, 2002, 2004]]
    assert clips[2].name == "c, frame 0" and clips[0].times is None and clips.gaps == 0
    assert (clips.context, clips.horizon, clips.split, clips.card, clips.spec.time_step) == (1, 2, "all", "numbers", None)


def test_windows_do_not_cross_a_gap():
    minutes = np.array([0, 5, 10, 20, 25, 31, 36, 41])
    film = Film("rain", 8, START + 60 * minutes)
    clips = Windows(card((1, 2), time=Clock(300, 60)), Numbered([film]), "all")
    assert numbers(clips) == [[0, 1, 2], [3, 4, 5], [4, 5, 6], [5, 6, 7]]
    assert clips.gaps == 1 and clips.spec.time_step == 300.0
    assert clips[1].times.tolist() == (START + 60 * np.array([20, 25, 31])).tolist() and clips[1].name == "rain, 2020-01-01T00:20:00"
    strict = Windows(card((1, 2), time=Clock(300)), Numbered([film]), "all")
    assert numbers(strict) == [[0, 1, 2], [5, 6, 7]] and strict.gaps == 2


def test_the_clock_of_the_files_counts_where_the_card_has_none():
    film = Film("rain", 5, START + np.array([0, 300, 600, 1200, 1500]))
    clips = Windows(card((1, 1, 1, 2)), Numbered([film], facts={"time_step": 300.0}), "all")
    assert numbers(clips) == [[0, 2]] and clips.spec.time_step == 600.0
    with pytest.raises(UserError, match="how far apart"):
        Windows(card((1, 1)), Numbered([film]), "all")


def test_events_split_by_moment_with_windows_at_fixed_frames():
    """SEVIR: events of 49 frames, windows of 13 + 12 at frames 0, 12 and 24, each event whole in the split in which it begins."""
    begins = ["2018-06-01T10:00", "2018-12-31T23:55", "2019-01-01T00:00", "2019-07-04T12:00"]
    films = [Film(begin, 49, np.datetime64(begin, "s") + 300 * np.arange(49)) for begin in begins]
    splits = Splits("film", until={"train": "2019-01-01", "validation": "2019-06-01", "test": None})
    this, reader = card((13, 12, 12), splits, time=Clock(300)), Numbered(films)
    starts = {split: Windows(this, reader, split).index.tolist() for split in splits.names}
    assert starts == {
        split: [[film, start] for film in part for start in (0, 12, 24)]
        for split, part in {"train": [0, 1], "validation": [2], "test": [3]}.items()
    }
    late = replace(this, splits=Splits("film", until={"train": "2018-01-01", "test": None}))
    with pytest.raises(UserError, match="split 'train' of 'numbers' has no clip"):
        Windows(late, reader, "train")


@given(
    steps=st.lists(st.sampled_from([300, 300, 300, 301, 600, 900]), min_size=0, max_size=50),
    window=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    share=st.floats(0.1, 0.9),
)
def test_every_window_lies_in_its_split_and_crosses_no_gap(steps, window, share):
    times = START + np.concatenate([[0], np.cumsum(steps, dtype=np.int64)]).astype("timedelta64[s]")
    splits = Splits("time", fractions={"train": share, "test": 1 - share})
    reader = Numbered([Film("rain", len(times), times)])
    this = card(window, splits, time=Clock(300, 1))
    seen = {}
    for split in splits.names:
        piece = splits.pieces(reader.films, split, this.window.length * this.window.every)[0].positions
        span = this.window.span
        possible = [
            start
            for start in range(piece.start, piece.stop - span + 1)
            if all(abs(step - 300) <= 1 for step in steps[start : start + span - 1])
        ]
        try:
            clips = Windows(this, reader, split)
        except UserError:
            assert not possible
            continue
        starts = clips.index[:, 1].tolist()
        assert set(starts) <= set(possible) and starts == sorted(starts)
        if this.window.stride == 1:
            assert starts == possible
        for index in range(len(clips)):
            positions = clips[index].frames[:, 0, 0, 0].tolist()
            assert positions == list(range(starts[index], starts[index] + span, this.window.every))
            for position in range(positions[0], positions[-1] + 1):
                assert seen.setdefault(position, split) == split


def test_a_clip_longer_than_any_film():
    reader = Numbered([Film("a", 4), Film("b", 7)])
    with pytest.raises(UserError, match=r"longest film of 'numbers' has 7 frames, but a clip needs 8 \(context 4 \+ horizon 4\)"):
        Windows(card((4, 4)), reader, "all")
    with pytest.raises(UserError, match=r"needs 9 \(context 2 \+ horizon 3, every 2\)"):
        Windows(card((2, 3, 1, 2)), reader, "all")


def test_a_split_without_a_clip():
    splits = Splits("time", fractions={"train": 0.5, "test": 0.5})
    with pytest.raises(
        UserError, match="split 'test' of 'numbers' has no clip: its longest piece without a gap has 4 frames, but a clip needs 6"
    ):
        Windows(card((3, 3), splits), Numbered([Film("a", 20)]), "test")


def test_nan_and_infinity():
    class Holes(Numbered):
        hole = np.nan

        def read(self, film, positions):
            frames = super().read(film, positions)
            frames[0, 0, 0, 0] = self.hole
            return frames

    reader = Holes([Film("a.npy", 9)], "float32")
    with pytest.raises(UserError, match=r"'a\.npy' holds NaN, which its card does not allow"):
        Windows(card(), reader, "all")[0]
    allowed = Windows(card(frames=Frames(nan_is_missing=True)), reader, "all")
    assert np.isnan(allowed[0].frames).sum() == 1
    reader.hole = -np.inf
    with pytest.raises(UserError, match="infinity"):
        allowed[0]


def test_the_spec_joins_card_and_files():
    grid = Grid("+proj=laea", (0.0, 0.0, 3.0, 2.0))
    transform = Transform("sqrt", 0.0, 9.0)
    reader = Numbered([Film("a", 9)], facts={"units": "mm/h", "grid": grid, "time_step": 60.0})
    spatial = Spatial(crop=(0, 1, 2, 2), resize=(4, 4))
    spec = Windows(card(frames=Frames(transform=transform, fill=1.0, minimum=0.5), spatial=spatial), reader, "all").spec
    assert (spec.shape, spec.units, spec.transform, spec.fill, spec.minimum, spec.time_step) == (
        (1, 4, 4),
        "mm/h",
        transform,
        1.0,
        0.5,
        60.0,
    )
    assert spec.grid == replace(grid, corners=(1.0, 0.0, 3.0, 2.0))
    with pytest.raises(UserError, match="says units dBZ, but the files are in mm/h"):
        Windows(card(frames=Frames(units="dBZ")), reader, "all")
    with pytest.raises(UserError, match="beyond the 2 x 3 frames"):
        Windows(card(spatial=Spatial(crop=(0, 0, 3, 3))), reader, "all")


def test_a_reader_that_gives_another_shape_is_told_so():
    reader = Numbered([Film("a", 9)])
    reader.height = 5
    with pytest.raises(UserError, match=r"gave frames of shape \(5, 1, 2, 3\), not \(5, 1, 5, 3\)"):
        Windows(card(), reader, "all")[0]


def test_clips_travel_to_other_processes():
    clips = Windows(card(), Numbered([Film("a", 9)]), "all")
    assert numbers(pickle.loads(pickle.dumps(clips))) == numbers(clips)
