import datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stpredict.data.clips import Film
from stpredict.data.splits import Splits
from stpredict.errors import UserError

START = np.datetime64("2010-08-26T00:00", "s")


def film(length, clock=False, name="film"):
    return Film(name, length, START + 300 * np.arange(length) if clock else None)


def positions(splits, films, gap):
    return {split: [(piece.film, piece.positions) for piece in splits.pieces(films, split, gap)] for split in splits.names}


def test_by_time_the_later_split_begins_a_clip_after_the_boundary():
    splits = Splits("time", fractions={"train": 0.6, "validation": 0.2, "test": 0.2})
    assert positions(splits, [film(100)], gap=5) == {
        "train": [(0, range(0, 60))],
        "validation": [(0, range(65, 80))],
        "test": [(0, range(85, 100))],
    }


def test_moments_cut_where_the_times_are():
    until = {"train": "2010-08-26T01:00", "validation": datetime.datetime(2010, 8, 26, 2), "test": None}
    films = [film(40, clock=True), Film("later", 10, START + 86400 + 300 * np.arange(10))]
    assert positions(Splits("time", until=until), films, gap=3) == {
        "train": [(0, range(0, 12)), (1, range(0, 0))],
        "validation": [(0, range(15, 24)), (1, range(0, 0))],
        "test": [(0, range(27, 40)), (1, range(0, 10))],
    }


def test_moments_with_a_zone_are_turned_to_utc():
    zone = datetime.timezone(datetime.timedelta(hours=2))
    splits = Splits("time", until={"train": datetime.datetime(2010, 8, 26, 3, tzinfo=zone), "test": datetime.date(2010, 8, 27)})
    assert positions(splits, [film(400, clock=True)], gap=0) == {"train": [(0, range(0, 12))], "test": [(0, range(12, 288))]}


def test_by_film_fractions():
    films = [film(3, name=str(number)) for number in range(10)]
    chosen = positions(Splits("film", fractions={"train": 0.8, "validation": 0.1, "test": 0.1}), films, gap=99)
    assert {split: [number for number, _ in pieces] for split, pieces in chosen.items()} == {
        "train": list(range(8)),
        "validation": [8],
        "test": [9],
    }
    assert all(run == range(3) for pieces in chosen.values() for _, run in pieces)


@given(st.integers(3, 40), st.floats(0.01, 0.98))
def test_by_film_every_split_gets_a_film(count, share):
    rest = (1 - share) / 2
    splits = Splits("film", fractions={"train": share, "validation": rest, "test": rest})
    chosen = [piece.film for split in splits.names for piece in splits.pieces([film(5)] * count, split, 0)]
    assert chosen == list(range(count))
    assert all(splits.pieces([film(5)] * count, split, 0) for split in splits.names)


def test_by_film_patterns():
    films = [film(3, name=name) for name in ("2018/a", "2018/b", "2019/a", "2020/a")]
    chosen = positions(Splits("film", films={"train": ["2018/*"], "test": ["2019/*", "202?/*"]}), films, gap=9)
    assert chosen == {"train": [(0, range(3)), (1, range(3))], "test": [(2, range(3)), (3, range(3))]}


def test_by_film_until_a_moment_an_event_is_whole_in_the_split_in_which_it_begins():
    """As SEVIR is split: events by the moment at which they begin, also where one reaches over the boundary."""
    until = {"train": "2019-01-01", "validation": "2019-06-01", "test": "2020-01-01"}
    begins = ["2018-12-31T23:00", "2019-01-01T00:00", "2018-03-01", "2019-05-31T23:59:59", "2019-06-01", "2020-01-01"]
    films = [Film(begin, 49, np.datetime64(begin, "s") + 300 * np.arange(49)) for begin in begins]
    chosen = positions(Splits("film", until=until), films, gap=99)
    assert {split: [number for number, _ in pieces] for split, pieces in chosen.items()} == {
        "train": [0, 2],
        "validation": [1, 3],
        "test": [4],
    }
    assert all(run == range(49) for pieces in chosen.values() for _, run in pieces)
    assert positions(Splits("film", until={"train": "2018-01-01", "test": None}), films, gap=0)["train"] == []
    early = Film("counted by its middle", 49, films[0].times, np.datetime64("2019-01-01T01:00", "s"))
    assert positions(Splits("film", until=until), [early], gap=99) == {"train": [], "validation": [(0, range(49))], "test": []}


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    shares=st.lists(st.integers(1, 10), min_size=1, max_size=4),
    gaps=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_no_frame_is_in_two_splits_even_for_clips_of_another_length(lengths, shares, gaps):
    films = [film(length) for length in lengths]
    splits = Splits("time", fractions={f"part {number}": share / sum(shares) for number, share in enumerate(shares)})
    owner = {}
    for gap in gaps:
        for split in splits.names:
            for number, run in splits.pieces(films, split, gap):
                assert 0 <= run.start <= run.stop <= lengths[number]
                for position in run:
                    assert owner.setdefault((number, position), split) == split
    for number, _ in enumerate(films):
        runs = [run for split in splits.names for n, run in splits.pieces(films, split, gaps[0]) if n == number and len(run)]
        assert all(later.start - earlier.stop >= gaps[0] for earlier, later in pairwise(runs))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"by": "day", "fractions": {"train": 1.0}}, "'film' or 'time', not 'day'"),
        ({"by": "time"}, "need one of 'fractions' or 'until'; given: none"),
        ({"by": "time", "films": {"train": ["*"]}}, "need one of 'fractions' or 'until'; given: films"),
        ({"by": "film"}, "need one of 'fractions', 'films' or 'until'; given: none"),
        ({"by": "film", "films": {"train": ["*"]}, "until": {"train": None}}, "given: films, until"),
        ({"by": "time", "fractions": {"train": 1.0}, "until": {"train": None}}, "given: fractions, until"),
        ({"by": "time", "fractions": {}}, "name no split"),
        ({"by": "time", "fractions": {"train": 0.5, "test": 0.4}}, "sum to 0.9"),
        ({"by": "time", "fractions": {"train": 1.5, "test": -0.5}}, "share between 0 and 1, not 1.5"),
        ({"by": "time", "until": {"train": None, "test": None}}, "Only the last"),
        ({"by": "time", "until": {"train": "2019-01-02", "test": "2019-01-01"}}, "must increase"),
        ({"by": "time", "until": {"train": "next week"}}, "a moment such as"),
        ({"by": "time", "until": {"train": 2019}}, "a moment such as"),
    ],
)
def test_rules_that_make_no_sense(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        Splits(**arguments)


@pytest.mark.parametrize(
    "splits",
    [Splits("time", fractions={"train": 0.5, "test": 0.5}), Splits("film", films={"train": ["a"]}), Splits("film", until={"train": None})],
)
def test_all_are_all_films_whole(splits):
    films = [film(9, name="a"), film(4, name="b")]
    assert splits.pieces(films, "all", gap=3) == [(0, range(9)), (1, range(4))]
    assert Splits("film", films={"all": ["b"]}).pieces(films, "all", gap=3) == [(1, range(4))], "a card may have a split so called"


def test_films_that_do_not_fit_the_rule():
    with pytest.raises(UserError, match=r"1 film\(s\) cannot be split by film into 2 splits .*by time"):
        Splits("film", fractions={"train": 0.5, "test": 0.5}).pieces([film(9)], "train", 1)
    with pytest.raises(UserError, match="no clock"):
        Splits("time", until={"train": None}).pieces([film(9)], "train", 1)
    with pytest.raises(UserError, match="no clock"):
        Splits("film", until={"train": None}).pieces([film(9)], "train", 1)
    with pytest.raises(UserError, match=r"No film fits splits\.films\.test \(x\*\); the films are called film"):
        Splits("film", films={"train": ["f*"], "test": ["x*"]}).pieces([film(9)], "train", 1)
    with pytest.raises(UserError, match="'film' is claimed by two splits, 'train' and 'test'"):
        Splits("film", films={"train": ["f*"], "test": ["*m"]}).pieces([film(9)], "train", 1)
    with pytest.raises(UserError, match="no split 'tset'; the splits are train, test"):
        Splits("time", fractions={"train": 0.5, "test": 0.5}).pieces([film(9)], "tset", 1)
