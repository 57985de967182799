import numpy as np
import pytest

import stpredict
from stpredict.errors import UserError


@pytest.fixture
def folder(films, tmp_path):
    films.write_folder(tmp_path / "frames", films.wandering_square(60, 24, 32))
    return tmp_path / "frames"


def test_what_is_given_stands_before_the_card(films, folder):
    clips = stpredict.load_data(
        "frames_folder", folder, "test", context=2, horizon=1, stride=2, every=2, crop=[0, 4, 16, 20], resize=[8, 10]
    )
    # The last fifth begins at 48; a clip of 3 x 2 frames is left out.
    assert clips.index[:, 1].tolist() == [54] and clips.spec.shape == (1, 8, 10) and (clips.context, clips.horizon) == (2, 1)
    expected = films.wandering_square(60, 24, 32)[54:60:2, :16, 4:24].astype(float).reshape(3, 8, 2, 10, 2).mean((2, 4))
    np.testing.assert_allclose(clips[0].frames[:, 0], expected, atol=0.5)
    colour = stpredict.load_data("frames_folder", folder, context=2, horizon=1, settings={"colour": True})
    assert colour.spec.channels == 3 and colour.card == "frames_folder" and colour.split == "train"


def test_crop_alone_keeps_the_card_s_size_and_the_other_way_round(folder, tmp_path):
    card = tmp_path / "mine.yaml"
    card.write_text("reader: folders\nspatial: {crop: [0, 0, 12, 12], resize: [6, 6]}\nsplits: {by: time, fractions: {all: 1.0}}\n")
    assert stpredict.load_data(card, folder, "all", crop=[2, 2, 20, 20]).spec.shape == (1, 6, 6)
    assert stpredict.load_data(card, folder, "all", resize=[3, 3])[0].frames.shape == (20, 1, 3, 3)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"context": 0}, "context must be at least 1, not 0"),
        ({"horizon": 0}, "horizon must be at least 1, not 0"),
        ({"horizon": -3}, "horizon must be at least 1, not -3"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"every": 0}, "every must be at least 1"),
        ({"crop": [0, 0, 25, 5]}, "beyond the 24 x 32 frames"),
        ({"crop": [0, 0]}, "top, left, height, width"),
        ({"resize": [4]}, r"\[height, width\]"),
        ({"split": "tset"}, "no split 'tset'; the splits are train, validation, test"),
        ({"context": 50, "horizon": 50}, "longest film of 'frames_folder' has 60 frames, but a clip needs 100"),
    ],
)
def test_impossible_wishes(folder, asked, sentence):
    with pytest.raises(UserError, match=sentence):
        stpredict.load_data("frames_folder", folder, **asked)


def test_a_root_is_needed_and_must_hold_something(tmp_path):
    with pytest.raises(UserError, match=r"'video' needs the folder of its files \(--root .*\)\. Take any file"):
        stpredict.load_data("video")
    with pytest.raises(UserError, match=r"no folder or file '.*nowhere'"):
        stpredict.load_data("video", tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no file"):
        stpredict.load_data("video", tmp_path)


def test_an_unknown_split_is_told_before_anything_is_read(tmp_path):
    with pytest.raises(UserError, match="no split 'tset'"):
        stpredict.load_data("video", tmp_path / "nowhere", "tset")


def test_clips_that_are_made_take_the_seed():
    first, again, other = (stpredict.load_data("moving_digits", seed=seed, settings={"size": 40})[3].frames for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    with pytest.raises(UserError, match="no split 'tset'"):
        stpredict.load_data("moving_digits", split="tset")
