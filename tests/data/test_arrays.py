import struct
import zipfile

import h5py
import numpy as np
import pytest

import stpredict
from stpredict.data.readers.arrays import Arrays
from stpredict.errors import UserError

RANDOM = np.random.default_rng(0)
FILMS = RANDOM.integers(0, 255, (3, 7, 2, 4, 5), dtype=np.uint8)  # N T C H W


def save(path, array, compressed=False):
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        (np.savez_compressed if compressed else np.savez)(path, frames=array)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("some/frames", data=array, **({"compression": "gzip", "shuffle": True} if compressed else {}))
    return path


@pytest.mark.parametrize("axes", ["NTCHW", "NTHWC", "TNHWC", "NHWTC", "CWHTN"])
@pytest.mark.parametrize(("name", "compressed"), [("a.npy", False), ("a.npz", False), ("a.npz", True), ("a.h5", False), ("a.h5", True)])
def test_any_order_of_axes_in_any_file(tmp_path, axes, name, compressed):
    array = FILMS.transpose(["NTCHW".index(axis) for axis in axes])
    reader = Arrays(save(tmp_path / name, array, compressed), axes=axes)
    assert [film.length for film in reader.films] == [7, 7, 7] and reader.films[2].name == f"{name}#2"
    assert (reader.channels, reader.height, reader.width, reader.packing.scale) == (2, 4, 5, 1 / 255)
    for film in range(3):
        frames = reader.read(film, range(1, 6, 2))
        assert frames.flags.c_contiguous
        np.testing.assert_array_equal(frames, FILMS[film, 1:6:2])


def test_axes_that_are_not_there(tmp_path):
    reader = Arrays(save(tmp_path / "a.npy", FILMS[0, :, 0]), axes="THW")
    assert (len(reader.films), reader.channels) == (1, 1)
    np.testing.assert_array_equal(reader.read(0, range(7)), FILMS[0, :, :1])
    reader = Arrays(save(tmp_path / "b.npy", FILMS[:, :, 0]), axes="NTHW")
    np.testing.assert_array_equal(reader.read(2, range(2, 3)), FILMS[2, 2:3, :1])


@pytest.mark.parametrize("dtype", [">u2", "<i2", ">f4", "<f8"])
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5"])
def test_byte_order_and_fortran_order(tmp_path, dtype, name):
    array = np.asfortranarray(RANDOM.integers(0, 1000, (6, 4, 5))).astype(dtype)
    reader = Arrays(save(tmp_path / name, array), axes="THW")
    frames = reader.read(0, range(6))
    assert frames.dtype == np.dtype(dtype).newbyteorder("=") and frames.dtype.isnative
    np.testing.assert_array_equal(frames[:, 0], array)
    assert reader.packing.scale == 1.0


def test_a_folder_of_files_is_read_in_natural_order_and_some_are_left_out(tmp_path):
    for number in (10, 2, 1):
        save(tmp_path / f"film{number}.npy", np.full((number, 4, 5), number, np.int16))
    reader = Arrays(tmp_path, axes="THW", scale=0.5, offset=-32, missing=[-1])
    assert [film.name for film in reader.films] == ["film1.npy", "film2.npy", "film10.npy"]
    assert (reader.read(2, range(9, 10)) == 10).all()
    assert (reader.packing.scale, reader.packing.offset, reader.packing.missing) == (0.5, -32, (-1,))
    assert [film.name for film in Arrays(tmp_path, axes="THW", leave_out=["film1*"]).films] == ["film2.npy"]
    assert [film.name for film in Arrays(tmp_path, axes="THW", files="*0.npy").films] == ["film10.npy"]


def test_one_of_several_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", frames=FILMS[0, :, 0], times=np.arange(7))
    np.testing.assert_array_equal(Arrays(tmp_path, axes="THW", dataset="frames").read(0, range(7)), FILMS[0, :, :1])
    with pytest.raises(UserError, match=r"holds 2 arrays; say which by the setting 'dataset'; known: frames, times"):
        Arrays(tmp_path, axes="THW")
    with pytest.raises(UserError, match="no array 'frame'; did you mean 'frames'"):
        Arrays(tmp_path, axes="THW", dataset="frame")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["frames"], file["times"] = FILMS[0, :, 0], np.arange(7)
    np.testing.assert_array_equal(Arrays(tmp_path / "b.h5", axes="THW", dataset="frames").read(0, range(7)), FILMS[0, :, :1])
    with pytest.raises(UserError, match="no 'frame'; did you mean 'frames'"):
        Arrays(tmp_path / "b.h5", axes="THW", dataset="frame")


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5"])
def test_a_wrong_rank_or_type(tmp_path, name):
    with pytest.raises(UserError, match=r"holds an array \(4, 5\) of 2 axes, but the card's axes are 'THW'"):
        Arrays(save(tmp_path / name, np.zeros((4, 5))), axes="THW")
    for dtype in ("int64", "bool", "complex64"):
        with pytest.raises(UserError, match=rf"'.*{name}' holds {dtype}; frames are uint8, "):
            Arrays(save(tmp_path / name, np.zeros((3, 4, 5), dtype)), axes="THW")
    with pytest.raises(UserError, match=r"empty array, \(0, 4, 5\)"):
        Arrays(save(tmp_path / name, np.zeros((0, 4, 5))), axes="THW")


def test_axes_that_make_no_sense(tmp_path):
    for axes in ("TH", "TTHW", "THWX", "thw"):
        with pytest.raises(UserError, match=f"axes '{axes}' should name"):
            Arrays(save(tmp_path / "a.npy", FILMS), axes=axes)


def test_files_that_do_not_fit_together(tmp_path):
    save(tmp_path / "a.npy", np.zeros((3, 4, 5), np.uint8))
    save(tmp_path / "b.npy", np.zeros((3, 4, 6), np.uint8))
    with pytest.raises(UserError, match=r"b\.npy' holds 1 x 4 x 6 frames of uint8, but '.*a\.npy' holds 1 x 4 x 5 frames of uint8"):
        Arrays(tmp_path, axes="THW")


def test_no_files(tmp_path):
    with pytest.raises(UserError, match=r"no folder or file '.*nowhere'"):
        Arrays(tmp_path / "nowhere", axes="THW")
    with pytest.raises(UserError, match="holds no file called"):
        Arrays(tmp_path, axes="THW")
    (tmp_path / "a.txt").write_text("frames")
    with pytest.raises(UserError, match=r"a\.txt' is no array file; known endings: \.npy"):
        Arrays(tmp_path / "a.txt", axes="THW")


@pytest.mark.parametrize(("name", "compressed"), [("a.npy", False), ("a.npz", False), ("a.npz", True), ("a.h5", False), ("a.h5", True)])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named(tmp_path, name, compressed, share):
    path = save(tmp_path / name, RANDOM.integers(0, 255, (9, 20, 30), dtype=np.uint8), compressed)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=rf"{name}' is (damaged|truncated)"):
        Arrays(tmp_path, axes="THW").read(0, range(9))


@pytest.mark.parametrize(("name", "compressed"), [("a.npz", True), ("a.h5", True)])
def test_damage_in_the_middle_is_found_when_it_is_read(tmp_path, name, compressed):
    path = save(tmp_path / name, RANDOM.integers(0, 255, (9, 40, 30), dtype=np.uint8), compressed)
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 400] = bytes(400)
    path.write_bytes(whole)
    reader = Arrays(tmp_path, axes="THW")
    with pytest.raises(UserError, match=rf"{name}' is damaged"):
        reader.read(0, range(9))


@pytest.mark.parametrize(("name", "compressed"), [("a.npy", False), ("a.npz", False), ("a.npz", True), ("a.h5", True)])
def test_whatever_bytes_change_only_a_user_error_comes_out(tmp_path, name, compressed):
    path = save(tmp_path / name, RANDOM.integers(0, 255, (3, 8, 8), dtype=np.uint8), compressed)
    whole, random, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(60):
        changed = bytearray(whole)
        for place in random.integers(0, len(whole), 4) if random.random() < 0.5 else random.integers(0, 120, 4):
            changed[place] = random.integers(256)
        path.write_bytes(changed)
        try:
            Arrays(path, axes="THW").read(0, range(3))
        except UserError as error:
            refused += 1
            assert name in str(error)
    assert refused > 5


def test_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([print, "boom"], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"a\.npy' holds object"):
        Arrays(tmp_path, axes="THW")
    (tmp_path / "a.npy").unlink()
    np.savez(tmp_path / "a.npz", np.array([print], dtype=object))
    with pytest.raises(UserError, match=r"a\.npz' holds object"):
        Arrays(tmp_path, axes="THW")


def npy_header(shape):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


def test_a_header_that_promises_more_than_the_file_takes_no_memory(tmp_path):
    lie = npy_header((1 << 40, 1 << 10, 1 << 10))
    (tmp_path / "a.npy").write_bytes(lie)
    with pytest.raises(UserError, match="is truncated: its header tells of"):
        Arrays(tmp_path / "a.npy", axes="THW")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("frames.npy", lie)
    with pytest.raises(UserError, match=r"tells of .* bytes, which it cannot hold"):
        Arrays(tmp_path / "a.npz", axes="THW")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("frames", (1 << 20, 1 << 20, 1 << 10), "u1", chunks=(1, 1 << 10, 1 << 10))
    with pytest.raises(UserError, match=r"declares .* bytes but stores 0"):
        Arrays(tmp_path / "a.h5", axes="THW")


def test_no_link_is_followed_out_of_an_hdf5_file(tmp_path):
    save(tmp_path / "secret.h5", FILMS[0, :, 0])
    raw = tmp_path / "raw.bin"
    raw.write_bytes(bytes(60))
    folder = tmp_path / "data"
    folder.mkdir()
    with h5py.File(folder / "a.h5", "w") as file:
        file["linked"] = h5py.ExternalLink("../secret.h5", "some/frames")
        file.create_dataset("raw", (3, 4, 5), "u1", external=[(str(raw), 0, 60)])
        layout = h5py.VirtualLayout((7, 4, 5), "u1")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "some/frames", (7, 4, 5))
        file.create_virtual_dataset("virtual", layout)
        file["soft"] = h5py.SoftLink("/linked")
    for name in ("linked", "raw", "virtual", "soft"):
        with pytest.raises(UserError, match="not followed"):
            Arrays(folder, axes="THW", dataset=name)


def test_nan_needs_the_card_s_permission(tmp_path):
    films = RANDOM.random((10, 6, 4, 5)).astype(np.float32)
    films[0, 3, 2, 1] = np.nan
    save(tmp_path / "a.npy", films)
    clips = stpredict.load_data("array", tmp_path, context=2, horizon=2)
    assert len(clips) == 8 * 3 and len(stpredict.load_data("array", tmp_path, "test", context=2, horizon=2)) == 3
    with pytest.raises(UserError, match=r"'a\.npy#0' holds NaN"):
        clips[0]
    np.testing.assert_array_equal(clips[3].frames, films[1, :4, None])


def test_a_long_npy_is_not_read_whole(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(npy_header((1 << 20, 256, 256)))
    with path.open("r+b") as file:
        file.truncate(len(npy_header(())) + (1 << 36))  # 64 GiB, of which the file system holds nothing
    assert Arrays(path, axes="THW").read(0, range(1_000_000, 1_000_004)).shape == (4, 1, 256, 256)
