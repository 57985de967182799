import pickle
from dataclasses import replace

import av
import numpy as np
import pytest

import stpredict
from stpredict.data.readers import video
from stpredict.data.readers.video import Video
from stpredict.errors import UserError


def decode_all(path, pixels="gray"):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format=pixels) for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def film(films, tmp_path_factory):
    """A film of many key frames and of frames that refer to later ones."""
    noisy = films.wandering_square(90, 48, 64, colour=True)
    return films.write_video(tmp_path_factory.mktemp("film") / "film.mp4", noisy, options={"g": "12", "bf": "3"})


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    """Readers decode what they are asked for; the test of what they remember says so."""
    monkeypatch.setattr(video, "REMEMBERED_BYTES", 0)


CODECS = [
    ("a.mp4", "libx264", {"g": "12", "bf": "3"}),
    ("a.mp4", "libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}),
    ("a.mkv", "libx264", {"g": "7", "bf": "2"}),
    ("a.webm", "libvpx-vp9", {"g": "10"}),
    ("a.avi", "mpeg4", {"g": "9"}),
    ("a.mov", "mpeg4", {"g": "9", "bf": "2"}),
    ("a.mpg", "mpeg2video", {"g": "9", "bf": "2"}),
    ("a.ts", "libx264", {"g": "9", "bf": "2"}),
]


@pytest.mark.parametrize(("name", "codec", "options"), CODECS)
def test_any_frame_is_the_one_that_decoding_from_the_start_gives(films, tmp_path, name, codec, options):
    path = films.write_video(tmp_path / name, films.wandering_square(50, 48, 64), codec=codec, options=options)
    reader = Video(tmp_path)
    everything = decode_all(path)
    assert reader.films[0].length == len(everything) and (reader.height, reader.width) == (48, 64)
    for start in range(0, len(everything) - 3, 4):
        np.testing.assert_array_equal(reader.read(0, range(start, start + 3))[:, 0], everything[start : start + 3])
    last = len(everything) - 1
    np.testing.assert_array_equal(reader.read(0, range(last, last + 1))[:, 0], everything[last:])
    np.testing.assert_array_equal(reader.read(0, range(3, 40, 7))[:, 0], everything[3:40:7])


def test_it_seeks_and_does_not_decode_from_the_start(film, monkeypatch):
    reader = Video(film)
    monkeypatch.setattr(video, "_decode_from_start", None)
    frames = [reader.read(0, range(start, start + 2)) for start in range(0, 88, 5)]
    assert len(frames) == 18


def test_without_time_stamps_it_decodes_from_the_start(film, monkeypatch):
    reader = Video(film)
    expected = reader.read(0, range(40, 50, 2))
    index = replace(reader._indices[0], stamps=None)
    monkeypatch.setattr(reader, "_indices", [index])
    np.testing.assert_array_equal(reader.read(0, range(40, 50, 2)), expected)


def test_values_cover_the_full_range_and_colours_stand_in_their_order(films, tmp_path):
    white = np.zeros((4, 32, 32, 3), np.uint8)
    white[:, :16], white[:, 16:] = 255, (200, 30, 90)
    path = films.write_video(tmp_path / "a.mp4", white, options={"crf": "1"})
    colour = Video(path, colour=True)
    assert colour.channels == 3
    np.testing.assert_allclose(colour.read(0, range(4))[:, :, 24, 8], np.tile([200, 30, 90], (4, 1)), atol=6)
    gray = Video(path).read(0, range(4))
    np.testing.assert_allclose(gray[:, 0, 4, 4], 255, atol=2)
    np.testing.assert_allclose(gray[:, 0, 24, 8], 0.299 * 200 + 0.587 * 30 + 0.114 * 90, atol=5)


def test_a_film_that_a_player_turns_is_turned(films, tmp_path):
    noisy = films.wandering_square(6, 32, 64)
    plain = Video(films.write_video(tmp_path / "plain.mp4", noisy)).read(0, range(6))
    turned = Video(films.write_video(tmp_path / "turned.mp4", noisy, turned=90))
    with av.open(str(tmp_path / "turned.mp4")) as container:
        angle = next(container.decode(video=0)).rotation
    assert abs(angle) == 90 and (turned.height, turned.width) == (64, 32)
    np.testing.assert_array_equal(turned.read(0, range(6)), np.rot90(plain, angle // 90, axes=(2, 3)))


def test_a_title_in_an_old_encoding_does_no_harm(films, tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Muenster"
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for frame in films.wandering_square(5, 32, 32):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"Muenster", b"M\xfcnster "))
    assert Video(path).films[0].length == 5


def test_a_folder_of_films(films, tmp_path):
    for number, name in enumerate(["b.mp4", "a10.mp4", "a2.avi", "deep/c.mkv"]):
        codec = "mpeg4" if name.endswith("avi") else "libx264"
        films.write_video(tmp_path / name, films.wandering_square(20 + number, 32, 32, number), rate=20, codec=codec)
    reader = Video(tmp_path)
    assert [(film.name, film.length) for film in reader.films] == [("a2.avi", 22), ("a10.mp4", 21), ("b.mp4", 20), ("deep/c.mkv", 23)]
    assert reader.facts == {"time_step": 0.05} and reader.films[0].times is None
    films.write_video(tmp_path / "z.mp4", films.wandering_square(5, 32, 32), rate=10)
    assert Video(tmp_path).facts == {}
    assert len(Video(tmp_path, leave_out=["deep/*", "z.mp4"]).films) == 3


def test_small_films_are_remembered_and_large_ones_are_not(film, monkeypatch):
    expected = decode_all(film)
    monkeypatch.setattr(video, "REMEMBERED_BYTES", expected.size)
    reader = Video(film)
    last = range(len(expected) - 3, len(expected))
    assert np.array_equal(reader.read(0, last)[:, 0], expected[last.start :])
    opened = video._opened
    monkeypatch.setattr(video, "_opened", None)  # nothing is opened any more
    key_frame = max(position for position in reader._indices[0].key_frames if position <= last.start)
    assert np.array_equal(reader.read(0, range(key_frame, len(expected), 2))[:, 0], expected[key_frame::2])
    monkeypatch.setattr(video, "_opened", opened)
    monkeypatch.setattr(video, "REMEMBERED_BYTES", expected.size - 1)
    forgetful = Video(film)
    assert np.array_equal(forgetful.read(0, last)[:, 0], expected[last.start :]) and not forgetful._pictures


def test_clips_of_a_film(film):
    everything = decode_all(film)
    clips = {split: stpredict.load_data("video", film, split, context=2, horizon=2, every=2) for split in ("train", "validation", "test")}
    assert clips["train"].spec.time_step == pytest.approx(2 / 25) and clips["train"].spec.units == "1"
    # 90 frames: 54, 18, 18, of which the later two lose a clip of 4 x 2; a window spans 7.
    assert {split: len(members) for split, members in clips.items()} == {"train": 48, "validation": 4, "test": 4}
    np.testing.assert_array_equal(clips["test"][1].frames[:, 0], everything[81:88:2])
    restored = pickle.loads(pickle.dumps(clips["train"]))
    np.testing.assert_array_equal(restored[5].frames[:, 0], everything[5:12:2])


@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.95, 0.99])
def test_a_truncated_film_is_named(films, tmp_path, options, share):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in films.wandering_square(40, 48, 64):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"a\.mp4' .*(damaged|truncated)"):
        Video(path)


def test_a_film_cut_between_two_frames_is_truncated(films, tmp_path):
    path = films.write_video(tmp_path / "a.avi", films.wandering_square(40, 48, 64), codec="mpeg4")
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][25]
        cut = packet.pos
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"a\.avi' is (truncated: of 40 frames 25 are there|damaged)"):
        Video(path)


def test_what_is_no_film(tmp_path, films):
    with pytest.raises(UserError, match="no folder or file"):
        Video(tmp_path / "nowhere.mp4")
    with pytest.raises(UserError, match="holds no file called"):
        Video(tmp_path)
    films.write_video(tmp_path / "a.mp4", films.wandering_square(5, 32, 32))
    films.write_video(tmp_path / "b.mp4", films.wandering_square(5, 32, 64))
    with pytest.raises(UserError, match=r"b\.mp4' holds frames of 32 x 64 pixels, but '.*a\.mp4' holds frames of 32 x 32"):
        Video(tmp_path)
    (tmp_path / "b.mp4").write_text("no film at all")
    with pytest.raises(UserError, match=r"b\.mp4' is damaged or is no video file"):
        Video(tmp_path)
    with av.open(str(tmp_path / "c.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(UserError, match=r"c\.mp4' holds no video"):
        Video(tmp_path / "c.mp4")
