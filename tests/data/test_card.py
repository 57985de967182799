import sys
from dataclasses import replace

import numpy as np
import pytest

import stpredict
from stpredict.data.card import Card, Clock, Window, read_card
from stpredict.data.checking import describe, list_cards
from stpredict.data.spatial import Spatial
from stpredict.errors import UserError
from stpredict.files import shipped_names

READER_CARD = "reader: arrays\nsettings: {axes: THW}\nsplits: {by: time, fractions: {train: 0.5, test: 0.5}}\n"


@pytest.fixture
def write(tmp_path):
    def write_card(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write_card


@pytest.mark.parametrize("name", shipped_names("datasets"))
def test_every_shipped_card_is_read_and_described(name):
    card = read_card(name)
    assert card.name == name and card.title and card.how_to_get
    assert card.title in describe(name) and list_cards()[name] == card.title


def test_the_shipped_cards():
    cards = {
        "array",
        "frames_folder",
        "kitticaltech",
        "knmi",
        "kth",
        "moving_digits",
        "moving_mnist",
        "taxibj",
        "video",
        "hko7",
        "meteonet",
        "sevir",
        "shanghai",
    }
    cards |= {"fmi", "meteoswiss", "moving_rain", "odim"}
    assert cards <= list_cards().keys()


def test_a_card_of_all_keys(write):
    path = write(
        READER_CARD
        + "frames: {units: K, transform: {name: log, low: 1, high: 9, knee: 2}, fill: 3, minimum: 0, nan_is_missing: true}\n"
        + "time: {step: 600, tolerance: 5}\nspatial: {crop: [1, 2, 3, 4], resize: [5, 6]}\n"
        + "window: {context: 2, horizon: 3, stride: 4, every: 5}\n"
    )
    card = read_card(path)
    assert card.name == "mine"
    assert card.frames.transform == stpredict.Transform("log", 1.0, 9.0, 2.0)
    assert (card.frames.units, card.frames.fill, card.frames.minimum, card.frames.nan_is_missing) == ("K", 3.0, 0.0, True)
    assert card.time == Clock(600.0, 5.0) and card.spatial == Spatial((1, 2, 3, 4), (5, 6)) and card.window == Window(2, 3, 4, 5)
    assert card.window.length == 5 and card.window.span == 21
    assert read_card(card) is card


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (READER_CARD + "widnow: {context: 1}", "no key 'widnow'; did you mean 'window'"),
        (READER_CARD + "window: {contxt: 1}", r"no key 'window\.contxt'; did you mean 'context'"),
        (READER_CARD + "window: {context: 0}", "context must be at least 1, not 0"),
        (READER_CARD + "window: {horizon: -1}", "horizon must be at least 1, not -1"),
        (READER_CARD + "window: {context: 1.5}", r"window\.context wants a whole number, not 1\.5"),
        (READER_CARD + "window: {context: true}", "wants a whole number, not true"),
        (READER_CARD + "window: 3", "window wants a section with the keys context"),
        (READER_CARD + "time: {tolerance: 3}", r"'time\.step' is missing"),
        (READER_CARD + "time: {step: 0}", "step > 0"),
        (READER_CARD + "time: {step: soon}", "wants a number, not 'soon'"),
        (READER_CARD + "spatial: {crop: [1, 2]}", "wants a list of 4 whole numbers"),
        (READER_CARD + "spatial: {resize: [0, 2]}", "at least 1 pixel"),
        (READER_CARD + "frames: {fill: .nan}", "finite fill"),
        (READER_CARD + "frames: {nan_is_missing: 1}", "wants true or false, not 1"),
        (READER_CARD + "frames: {transform: {name: cubic}}", "cannot be 'cubic'"),
        (READER_CARD + "frames: {transform: {low: 2, high: 1}}", "low < high"),
        (READER_CARD + "clips: moving_digits", "either a 'reader' or 'clips'"),
        (READER_CARD + "needs_files: false", "needs files"),
        ("title: nothing", "either a 'reader' or 'clips'"),
        ("reader: arrays", "needs 'splits'"),
        ("reader: arrays\nsplits: [train]", "needs 'splits'"),
        ("clips: moving_digits\nsplits: [train]\ntime: {step: 1}", "not time"),
        ("clips: moving_digits\nsplits: [train]\nwindow: {every: 2}", "not every"),
        ("clips: moving_digits\nsplits: {by: time, fractions: {train: 1}}", "lists the names"),
        ("- a\n- b", "wants keys with values"),
        ("a: [", "is no YAML"),
    ],
)
def test_what_is_wrong_with_a_card_is_told_with_its_file(write, text, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        read_card(write(text))
    assert "mine.yaml" in str(caught.value)


def test_an_unknown_card_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'knmi'"):
        read_card("knmy")


def test_settings_are_checked_against_the_reader(tmp_path):
    with pytest.raises(UserError, match=r"no key 'array\.settings\.axis'; did you mean 'axes'"):
        stpredict.load_data("array", tmp_path, settings={"axis": "THW"})
    with pytest.raises(UserError, match=r"'array\.settings\.axes' is missing"):
        stpredict.load_data(replace(read_card("array"), settings={}), tmp_path)
    with pytest.raises(UserError, match="There is no reader 'vidoe'; did you mean 'video'"):
        stpredict.load_data(replace(read_card("video"), reader="vidoe"), tmp_path)
    with pytest.raises(UserError, match=r"'pathlib:Path' is no stpredict\.data\.clips\.Reader"):
        stpredict.load_data(Card(reader="pathlib:Path", splits=read_card("video").splits), tmp_path)


MY_DATA = """
import numpy as np
from stpredict.data.clips import ClipSet, Film, Reader
from stpredict.frames import Clip, FrameSpec, Packing

class MyReader(Reader):
    def __init__(self, root, *, value=1):
        self.films, self.value = [Film(root.name, 60)], value
        self.channels, self.height, self.width = 1, 2, 3
        self.packing, self.facts = Packing(), {"units": "K"}

    def read(self, film, positions):
        return np.full((len(positions), 1, 2, 3), self.value, dtype=np.int16)

class MyClips(ClipSet):
    def __init__(self, root, split, *, context, horizon, seed, value=1):
        self.root, self.split, self.context, self.horizon, self.fill = root, split, context, horizon, value + seed
        self.spec, self.packing = FrameSpec(1, 2, 3), Packing()

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return Clip(np.full((self.context + self.horizon, 1, 2, 3), self.fill + index, dtype=np.uint8))
"""


@pytest.fixture
def my_data(tmp_path, monkeypatch):
    (tmp_path / "my_data_for_a_test.py").write_text(MY_DATA)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_data_for_a_test"
    sys.modules.pop("my_data_for_a_test", None)


def test_a_reader_of_ones_own(my_data, tmp_path):
    card = replace(read_card("video"), reader=f"{my_data}:MyReader", settings={"value": 7})
    data = stpredict.load_data(card, tmp_path, "validation", context=1, horizon=2)
    assert data.spec.units == "K" and data.spec.shape == (1, 2, 3)
    np.testing.assert_array_equal(data[0].frames, np.full((3, 1, 2, 3), 7))
    assert (stpredict.load_data(card, tmp_path, settings={"value": 8})[0].frames == 8).all()


def test_clips_of_ones_own(my_data, tmp_path):
    card = Card(name="mine", clips=f"{my_data}:MyClips", needs_files=False, splits=["train"])
    data = stpredict.load_data(card, split="train", context=2, horizon=1, seed=40, settings={"value": 2})
    assert (data.card, data.split, data.root, len(data)) == ("mine", "train", None, 5)
    np.testing.assert_array_equal(data[3].frames, np.full((3, 1, 2, 3), 45))
    with pytest.raises(UserError, match=r"no key 'mine\.settings\.horizon'"):
        stpredict.load_data(card, settings={"horizon": 3})
    with pytest.raises(UserError, match="not every"):
        stpredict.load_data(card, every=2)
    with pytest.raises(UserError, match="not spatial"):
        stpredict.load_data(card, resize=[4, 4])
    with pytest.raises(UserError, match=r"'mine' needs the folder of its files \(--root .*\)\. Ask Anna\."):
        stpredict.load_data(replace(card, needs_files=True, how_to_get="Ask Anna."))
