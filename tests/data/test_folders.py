import cv2
import numpy as np
import pytest
from PIL import Image

import stpredict
from stpredict.data.readers.folders import Folders
from stpredict.errors import UserError


@pytest.mark.parametrize("suffix", ["png", "pgm", "bmp", "tif", "gif", "webp"])
def test_frames_in_natural_order(tmp_path, films, suffix):
    film = films.wandering_square(12)
    if suffix == "webp":
        films.write_folder(tmp_path, film, suffix)
        film = np.stack([cv2.imread(str(tmp_path / f"frame{number}.webp"), cv2.IMREAD_GRAYSCALE) for number in range(12)])
    else:
        films.write_folder(tmp_path, film, suffix)
    reader = Folders(tmp_path)
    assert [(one.name, one.length) for one in reader.films] == [(tmp_path.name, 12)] and reader.packing.scale == 1 / 255
    np.testing.assert_allclose(reader.read(0, range(1, 12, 3))[:, 0], film[1:12:3], atol=2 if suffix == "webp" else 0)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_gray_and_colour(tmp_path, films, suffix):
    paths = films.write_folder(tmp_path, films.wandering_square(3, colour=True), suffix)
    colour = np.stack([cv2.imread(str(path))[..., ::-1] for path in paths])
    np.testing.assert_allclose(
        Folders(tmp_path, colour=True).read(0, range(3)), colour.transpose(0, 3, 1, 2), atol=3 if suffix == "jpg" else 0
    )
    luma = colour @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(Folders(tmp_path).read(0, range(3))[:, 0], luma, atol=3 if suffix == "jpg" else 1)


def test_every_folder_of_images_is_a_film(tmp_path, films):
    for number, name in enumerate(["b", "a2", "a10/deep", "a10"]):
        films.write_folder(tmp_path / name, films.wandering_square(3 + number, seed=number))
    films.write_folder(tmp_path, films.wandering_square(2, seed=9))
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "a2" / "notes.txt").write_text("no frame")
    (tmp_path / "a2" / "._frame0.png").write_text("no frame")
    reader = Folders(tmp_path)
    found = {film.name: film.length for film in reader.films}
    assert found == {tmp_path.name: 2, "a2": 4, "a10": 6, "a10/deep": 5, "b": 3}
    number = list(found).index("a10")
    np.testing.assert_array_equal(reader.read(number, range(6))[:, 0], films.wandering_square(6, seed=3))
    assert [film.name for film in Folders(tmp_path, leave_out=["a*", "frame*"]).films] == ["b"]


def test_an_animated_image_is_a_film(tmp_path, films):
    film = films.wandering_square(9)
    pictures = [Image.fromarray(frame) for frame in film]
    for name in ("one.gif", "two.gif"):
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=40)
    pictures[3].save(tmp_path / "still.gif")
    reader = Folders(tmp_path)
    assert {(one.name, one.length) for one in reader.films} == {(tmp_path.name, 1), ("one.gif", 9), ("two.gif", 9)}
    moving = [one.name for one in reader.films].index("two.gif")
    np.testing.assert_array_equal(reader.read(moving, range(2, 9, 2))[:, 0], film[2:9:2])
    assert Folders(tmp_path / "one.gif").films[0].length == 9


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_stay_sixteen_bits(tmp_path, suffix):
    film = np.random.default_rng(0).integers(0, 65536, (3, 6, 7), dtype=np.uint16)
    film[0, 0, 0] = 65535
    for number, frame in enumerate(film):
        cv2.imwrite(str(tmp_path / f"{number}.{suffix}"), frame)
    reader = Folders(tmp_path)
    frames = reader.read(0, range(3))
    assert frames.dtype == np.uint16 and reader.packing.scale == 1 / 65535
    np.testing.assert_array_equal(frames[:, 0], film)
    with pytest.raises(UserError, match="more than 8 bits"):
        Folders(tmp_path, colour=True)
    cv2.imwrite(str(tmp_path / f"3.{suffix}"), np.zeros((6, 7), np.uint8))
    with pytest.raises(UserError, match=rf"3\.{suffix}' has 8 bits a pixel, but '.*0\.{suffix}' has 16"):
        Folders(tmp_path).read(0, range(4))


def test_sizes_that_differ_name_both_files(tmp_path, films):
    films.write_folder(tmp_path / "a", films.wandering_square(40))
    Image.fromarray(np.zeros((30, 32), np.uint8)).save(tmp_path / "a" / "frame7.png")
    with pytest.raises(UserError, match=r"frame7\.png' is 30 x 32 pixels, but '.*frame0\.png' is 24 x 32; .* one size"):
        stpredict.load_data("frames_folder", tmp_path, context=4, horizon=4)[0]


def test_missing_or_empty(tmp_path):
    with pytest.raises(UserError, match="no folder or file"):
        Folders(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no file called \*\.png"):
        Folders(tmp_path)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("suffix", ["png", "jpg", "pgm", "gif", "bmp", "tif", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.8])
def test_a_truncated_image_is_named(tmp_path, films, suffix, share):
    path = films.write_folder(tmp_path, films.wandering_square(2, 40, 50), suffix)[1]
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=rf"frame1\.{suffix}' is damaged or is no image"):
        Folders(tmp_path).read(0, range(2))


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif' holds floating-point pixels"):
        Folders(tmp_path)


def test_a_huge_image_takes_no_memory(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 100000 100000 255\n")
    with pytest.raises(UserError, match=r"a\.pgm' is damaged or is no image"):
        Folders(tmp_path)
