import math
from dataclasses import replace

import numpy as np
import pytest

import stpredict
from stpredict.data import choosing
from stpredict.data.card import Card, Window, open_reader, read_card
from stpredict.data.checking import check_data, describe
from stpredict.data.choosing import Importance, Rain, rain_of_frames
from stpredict.data.clips import Film, Reader
from stpredict.data.spatial import Spatial
from stpredict.data.splits import Splits
from stpredict.data.storing import prepare_archive
from stpredict.data.windows import Windows
from stpredict.draws import uniform
from stpredict.errors import UserError
from stpredict.frames import Packing

MISSING = 255
SHAPE = (1, 4, 5)


class Drizzle(Reader):
    """Frame n of film f is drawn by (f, n); half of the frames are dry, some pixels are missing."""

    channels, height, width = SHAPE
    packing = Packing(0.1, 0.0, (MISSING,))
    facts = {}  # noqa: RUF012

    def __init__(self, lengths=(30, 11)):
        self.films = [Film(f"film {number}", length) for number, length in enumerate(lengths)]
        self.reads = 0

    def frame(self, film, position):
        drawn = np.random.default_rng([film, position]).integers(0, 30, SHAPE)
        rain = drawn * (np.random.default_rng([film, position, 1]).random(SHAPE) < (position % 7) / 7)
        return np.where(drawn == 29, MISSING, rain).astype(np.uint8)

    def read(self, film, positions):
        self.reads += len(positions)
        return np.stack([self.frame(film, position) for position in positions])


def card(rain, window=(2, 3), **more):
    splits = more.pop("splits", Splits("film", fractions={"train": 1.0}))
    return Card(name="drizzle", reader="unused", window=Window(*window, rain=rain), splits=splits, **more)


def oracle(reader, film, positions, threshold):
    """Shares by plain arithmetic on physical values: above the threshold, and the mean of 1 - exp(-x)."""
    codes = [code for position in positions for code in reader.frame(film, position).ravel().tolist() if code != MISSING]
    values = [code * 0.1 for code in codes]
    return sum(value > threshold for value in values) / len(values), sum(1 - math.exp(-value) for value in values) / len(values)


def test_clips_with_rain_enough_are_kept():
    reader = Drizzle()
    everything = Windows(card(None), reader, "train")
    threshold = 1.05
    shares = [oracle(reader, film, range(start, start + 5), threshold)[0] for film, start in everything.index.tolist()]
    chosen = Windows(card(Rain(threshold, 0.3)), reader, "train")
    assert chosen.index.tolist() == everything.index[np.array(shares) >= 0.3].tolist()
    assert 0 < len(chosen) < len(everything) == chosen.candidates == everything.candidates and (chosen.acceptance == 1).all()
    exact = sorted(shares)[10]  # a share that there is counts as enough
    assert len(Windows(card(Rain(threshold, exact)), reader, "train")) == sum(share >= exact for share in shares)


def test_the_context_alone():
    reader = Drizzle()
    everything = Windows(card(None), reader, "train")
    chosen = Windows(card(Rain(1.05, 0.4, over="context")), reader, "train").index.tolist()
    wanted = [[film, start] for film, start in everything.index.tolist() if oracle(reader, film, range(start, start + 2), 1.05)[0] >= 0.4]
    assert chosen == wanted and 0 < len(wanted) < len(everything)


def test_every_other_frame_counts():
    reader = Drizzle()
    window = (2, 2, 1, 3)
    chosen = Windows(card(Rain(1.05, 0.3), window), reader, "train").index.tolist()
    wanted = [
        [film, start]
        for film, start in Windows(card(None, window), reader, "train").index.tolist()
        if oracle(reader, film, range(start, start + 10, 3), 1.05)[0] >= 0.3
    ]
    assert chosen == wanted != []


def test_the_crop_counts():
    reader, spatial = Drizzle(), Spatial(crop=(1, 2, 2, 3), resize=(7, 7))
    found = rain_of_frames(card(Rain(0.95, 0.1), spatial=spatial), reader, None)
    number = 0
    for film in (0, 1):
        for position in range(reader.films[film].length):
            part = reader.frame(film, position)[0, 1:3, 2:5].astype(int)
            seen = part != MISSING
            assert (found.valid[number], found.above[number]) == (seen.sum(), ((part > 9.5) & seen).sum())
            assert found.saturated[number] == pytest.approx((1 - np.exp(-0.1 * part[seen])).sum(), abs=1e-6)
            number += 1
    assert number == len(found.valid)


def test_nothing_valid_is_no_rain():
    class Blind(Drizzle):
        def frame(self, film, position):
            return np.full(SHAPE, MISSING, np.uint8)

    with pytest.raises(UserError, match=r"In none of the 33 clips of the split 'train' of 'drizzle' it rains enough: ask for less"):
        Windows(card(Rain(0.0, 1e-9)), Blind(), "train")


def test_importance_draws_by_seed_and_clip():
    """As DGMR draws: the probability is least + slope * mean(1 - exp(-x / s)), and it is kept."""
    reader = Drizzle((4000,))
    rain = Rain(0.0, importance=Importance(least=0.02, slope=0.9, saturation=1.0))
    everything = Windows(card(None), reader, "train")
    chosen = Windows(card(rain), reader, "train", seed=5)
    for number in (0, 7, len(chosen) - 1):
        start = int(chosen.index[number, 1])
        mean = oracle(reader, 0, range(start, start + 5), 0.0)[1]
        assert chosen.acceptance[number] == pytest.approx(0.02 + 0.9 * mean, rel=1e-5)
    # Each chosen clip counts 1 / probability, so that all together count as many as there are.
    assert (1 / chosen.acceptance).sum() == pytest.approx(len(everything), rel=0.1)
    words = uniform(5, "rain", 0, 0, 4000)
    assert all(words[start] < p for (_, start), p in zip(chosen.index.tolist(), chosen.acceptance.tolist(), strict=True))
    same, other = (Windows(card(rain, (2, 3, stride)), reader, "train", seed=seed) for stride, seed in ((1, 5), (1, 6)))
    assert same.index.tolist() == chosen.index.tolist() != other.index.tolist()
    # A clip is drawn or not whatever other clips there are.
    sparse = Windows(card(rain, (2, 3, 4)), reader, "train", seed=5)
    assert sparse.index[:, 1].tolist() == [start for start in chosen.index[:, 1].tolist() if start % 4 == 0]


def test_only_training_clips_are_drawn():
    splits = Splits("film", fractions={"train": 0.5, "test": 0.5})
    rain = Rain(0.0, importance=True)
    assert rain.drawing == Importance(2e-4, 0.1, 1.0) and Rain(0.0).drawing is None
    test = Windows(card(rain, splits=splits), Drizzle((30, 30)), "test")
    assert len(test) == test.candidates == 26 and (test.acceptance == 1).all()


def test_frames_are_looked_at_once(knmi_files, tmp_path, monkeypatch):
    monkeypatch.setenv("STPREDICT_INDEX", str(tmp_path / "index"))
    monkeypatch.setattr(choosing, "_remembered", {})
    archive = tmp_path / "archive"
    archive.mkdir()
    knmi_files.write_sample(archive, frames=40)
    seen = []
    real = choosing._Counting.__call__
    monkeypatch.setattr(choosing._Counting, "__call__", lambda self, number: seen.append(number) or real(self, number))
    asked = {"context": 2, "horizon": 2, "rain": {"threshold": 0.1, "fraction": 0.01}}
    first = stpredict.load_data("knmi", archive, **asked).index.tolist()
    assert len(seen) == 1
    stpredict.load_data("knmi", archive, "test", **asked)
    choosing._remembered.clear()  # as in another process
    assert stpredict.load_data("knmi", archive, **asked).index.tolist() == first and len(seen) == 1
    for path in (tmp_path / "index").iterdir():
        path.write_text("{}")
    choosing._remembered.clear()
    assert stpredict.load_data("knmi", archive, **asked).index.tolist() == first and len(seen) == 2
    stpredict.load_data("knmi", archive, **{**asked, "rain": {"threshold": 0.2, "fraction": 0.01}})
    assert len(seen) == 3
    (archive / "RAD_NL25_RAP_5min_201008260000.h5").unlink()
    stpredict.load_data("knmi", archive, **asked)
    assert len(seen) == 4
    prepare_archive("knmi", archive, tmp_path / "rain.h5")
    archived, stored = (stpredict.load_data("knmi", root, **asked).index.tolist() for root in (archive, tmp_path / "rain.h5"))
    assert archived == stored


def test_several_processes_count_the_same(knmi_files, tmp_path, monkeypatch):
    knmi_files.write_sample(tmp_path, frames=40)
    chosen = replace(read_card("knmi"), window=Window(2, 2, rain=Rain(0.1, 0.1)))
    reader = open_reader(chosen, tmp_path)
    whole = rain_of_frames(chosen, reader, None)
    monkeypatch.setattr(choosing, "_BLOCK", 8 * 7 * 32 * 28)
    parts = rain_of_frames(chosen, reader, None)
    assert all((getattr(whole, name) == getattr(parts, name)).all() for name in ("above", "valid", "saturated"))


def test_what_is_told(knmi_files, tmp_path, monkeypatch):
    monkeypatch.setenv("STPREDICT_INDEX", "off")
    knmi_files.write_sample(tmp_path, frames=40)
    chosen = replace(read_card("knmi"), window=Window(1, 1, rain=Rain(0.1, 0.02, importance=Importance(0.5, 0.5))))
    report = check_data(chosen, tmp_path)
    assert report.candidates["train"] == 15 and f"split train: {report.clips['train']} clips of 15, chosen by rain" in str(report)
    assert "at least 0.02 of the pixels are above 0.1; those of the split train are drawn" in describe(chosen)


@pytest.mark.parametrize(
    ("rain", "sentence"),
    [
        ({"threshold": 0.1, "fraction": 5}, "a fraction from 0 to 1, not 0.1 and 5"),
        ({"threshold": float("nan")}, "a threshold"),
        ({"threshold": 0.1, "over": "horizon"}, "'horizon'"),
        ({"fraction": 0.1}, "rain.threshold' is missing"),
        ({"threshold": 0.1, "importance": {"least": 0}}, r"least in \(0, 1\]"),
        ({"threshold": 0.1, "importance": {"slop": 0}}, "no key 'rain.importance.slop'"),
    ],
)
def test_rules_that_make_no_sense(rain, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        stpredict.load_data("knmi", tmp_path, rain=rain)


def test_clips_that_are_made_are_not_chosen():
    with pytest.raises(UserError, match="not rain"):
        stpredict.load_data("moving_digits", rain={"threshold": 0.1})
