"""The newest frames of an archive, with gaps that are refused or filled by a rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from stpredict.data import override
from stpredict.data.card import read_card
from stpredict.data.newest import Newest, newest_clip
from stpredict.errors import UserError

HEIGHT, WIDTH, MISSING = 6, 5, 65535
START = datetime(2010, 8, 25, 23, 50)


def picture(number: int) -> np.ndarray:
    """Return a picture in hundredths of a millimetre; one corner is always missing, and another in every odd picture."""
    image = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 7 + number**2 * 10).astype(np.uint16)
    image[0, 0] = MISSING
    if number % 2:
        image[-1, -1] = MISSING
    return image


def rain(number: int) -> np.ndarray:
    image = picture(number)
    return np.where(image == MISSING, np.nan, image * 0.01 * 12)


Archive = Callable[[Sequence[int]], Path]


@pytest.fixture
def archive(tmp_path: Path, knmi_files: ModuleType) -> Archive:
    """Write the pictures of these numbers, five minutes apart."""

    def write(numbers: Sequence[int]) -> Path:
        for number in numbers:
            knmi_files.write_file(tmp_path, picture(number), START + timedelta(minutes=5 * number))
        return tmp_path

    return write


def physical(newest: Newest) -> np.ndarray:
    import torch

    return newest.packing.unpack(torch.from_numpy(newest.clip.frames))[:, 0].numpy()


def minutes(newest: Newest) -> list[int]:
    assert newest.clip.times is not None
    return ((newest.clip.times - np.datetime64(START, "s")) // np.timedelta64(60, "s")).astype(int).tolist()


def test_the_newest_clip_is_the_end_of_the_archive(archive: Archive) -> None:
    newest = newest_clip(read_card("knmi"), archive(range(8)), 3)
    assert minutes(newest) == [25, 30, 35] and newest.filled == (False,) * 3 and newest.rule is None
    assert newest.clip.frames.dtype == np.uint16, "still packed"
    np.testing.assert_allclose(physical(newest), [rain(5), rain(6), rain(7)], rtol=1e-6)
    assert (newest.spec.units, newest.spec.time_step, newest.spec.height, newest.spec.width) == ("mm/h", 300.0, HEIGHT, WIDTH)


def test_too_few_or_with_a_gap(archive: Archive) -> None:
    root = archive([0, 1, 2, 3, 4, 6, 7])
    gap = r"has 2 since the last gap in time, from 2010-08-26T00:10:00 to 2010-08-26T00:20:00: wait, or give more, or have gaps filled"
    with pytest.raises(UserError, match=gap):
        newest_clip(read_card("knmi"), root, 3)
    archive([5])
    with pytest.raises(UserError, match=r"needs the 9 newest frames in a row, and '.*' has 8: wait, or give more$"):
        newest_clip(read_card("knmi"), root, 9)


@pytest.mark.parametrize("rule", ["persistence", "linear"])
def test_gaps_are_filled_by_a_rule(archive: Archive, rule: str) -> None:
    """Pictures 4 and 5 are missing between 3 and 6: a third and two thirds of the way."""
    newest = newest_clip(read_card("knmi"), archive([1, 2, 3, 6, 7]), 5, rule)
    assert minutes(newest) == [15, 20, 25, 30, 35]
    assert newest.filled == (False, True, True, False, False) and newest.rule == rule
    filled = [rain(3), rain(3)] if rule == "persistence" else [(2 * rain(3) + rain(6)) / 3, (rain(3) + 2 * rain(6)) / 3]
    np.testing.assert_allclose(physical(newest), [rain(3), *filled, rain(6), rain(7)], rtol=1e-6)
    assert np.isnan(physical(newest)[1:3, 0, 0]).all() and np.isnan(physical(newest)[1:3, -1, -1]).all()


def test_a_rule_changes_nothing_where_nothing_is_missing(archive: Archive) -> None:
    root = archive(range(8))
    plain, ruled = newest_clip(read_card("knmi"), root, 4), newest_clip(read_card("knmi"), root, 4, "linear")
    np.testing.assert_array_equal(plain.clip.frames, ruled.clip.frames)
    assert plain.packing == ruled.packing and not any(ruled.filled)


def test_every_other_frame_of_which_one_is_missing(archive: Archive) -> None:
    """Steps of ten minutes: picture 5 is wanted and missing; 4 and 6, which are not wanted, tell most about it."""
    card = override(read_card("knmi"), every=2)
    newest = newest_clip(card, archive([0, 1, 2, 3, 4, 6, 7]), 4, "linear")
    assert minutes(newest) == [5, 15, 25, 35] and newest.filled == (False, False, True, False)
    np.testing.assert_allclose(physical(newest), [rain(1), rain(3), (rain(4) + rain(6)) / 2, rain(7)], rtol=1e-6)
    assert newest.spec.time_step == 600


def test_too_much_to_make_up_or_nothing_to_go_by(archive: Archive, tmp_path: Path) -> None:
    root = archive([0, 5, 6])
    with pytest.raises(UserError, match=r"4 of the 6 newest frames of '.*' are missing, which is too many to make up: wait"):
        newest_clip(read_card("knmi"), root, 6, "linear")
    with pytest.raises(UserError, match=r"needs the 9 newest frames in a row, and '.*' has 7: wait, or give more$"):
        newest_clip(read_card("knmi"), root, 9, "linear")
    with pytest.raises(UserError, match="no rule 'lineal' to fill gaps; did you mean 'linear'"):
        newest_clip(read_card("knmi"), root, 2, "lineal")
    np.save(tmp_path / "film.npy", np.zeros((5, 4, 4), np.uint8))
    with pytest.raises(UserError, match=r"'film.npy' has no clock, so it has no gap that could be filled"):
        newest_clip(override(read_card("array"), settings={"axes": "THW"}), tmp_path / "film.npy", 3, "linear")


def test_a_film_that_is_out_of_step_is_not_filled(tmp_path: Path, knmi_files: ModuleType) -> None:
    """Seven minutes are neither one step of five nor two."""
    for minute in (0, 5, 12, 17):
        knmi_files.write_file(tmp_path, picture(minute), START + timedelta(minutes=minute))
    with pytest.raises(
        UserError, match=r"has 2 since the last gap in time, from 2010-08-25T23:55:00 to 2010-08-26T00:02:00: wait, or give more$"
    ):
        newest_clip(read_card("knmi"), tmp_path, 3, "linear")


def test_of_several_films_the_newest_is_continued(tmp_path: Path) -> None:
    for number in (2, 10):
        np.save(tmp_path / f"film{number}.npy", np.full((5, 4, 4), number, dtype=np.uint8))
    card = tmp_path / "films.yaml"
    card.write_text("reader: arrays\nsettings: {axes: THW}\nsplits: {by: film, fractions: {train: 0.5, test: 0.5}}\n")
    clip = newest_clip(read_card(card), tmp_path, 3).clip
    assert clip.name == "film10.npy" and (clip.frames == 10).all()
