import math
import sys
from datetime import datetime

import h5py
import numpy as np
import pytest
import torch

from stpredict.data.odim_files import write_odim
from stpredict.data.readers.odim import Odim
from stpredict.errors import UserError
from stpredict.frames import Grid

pytest.importorskip("pyproj")

LAEA = "+proj=laea +lat_0=55 +lon_0=10 +x_0=1950000 +y_0=-2100000 +ellps=WGS84 +units=m"
GRID = Grid(LAEA, (1_000_000.0, -3_012_000.0, 1_008_000.0, -3_000_000.0))
TIME = datetime(2024, 2, 29, 23, 55)


def physical(reader):
    return reader.packing.unpack(torch.from_numpy(reader.read(0, range(1))))[:, 0].numpy()


@pytest.mark.parametrize(("dtype", "gain", "most"), [("uint8", 0.5, 254), ("uint16", 0.01, 65534)])
def test_what_is_written_is_read(tmp_path, dtype, gain, most):
    random = np.random.default_rng(0)
    rain = random.exponential(3.0, (6, 4))
    rain[0], rain[1, :2], rain[2, 0] = 0.0, np.nan, 1e9
    write_odim(tmp_path / "a.h5", rain, quantity="RATE", grid=GRID, time=TIME, seconds=300, gain=gain, dtype=dtype)
    reader = Odim(tmp_path)
    assert reader.read(0, range(1)).dtype == np.dtype(dtype)
    values = physical(reader)[0]
    np.testing.assert_array_equal(np.isnan(values), np.isnan(rain))
    seen = ~np.isnan(rain)
    expected = np.minimum(np.rint(rain[seen] / gain), most) * gain
    np.testing.assert_allclose(values[seen], expected, rtol=1e-6)
    assert (values[0] == 0).all() and values[2, 0] == pytest.approx(most * gain)
    assert reader.films[0].times.tolist() == [TIME] and reader.facts == {"units": "mm/h", "grid": GRID}
    assert (reader.channels, reader.height, reader.width) == (1, 6, 4)
    with h5py.File(tmp_path / "a.h5") as file:
        codes = file["dataset1/data1/data"][()]
        assert (codes[1, :2] == most + 1).all() and (codes[0] == 0).all()
        assert file.attrs["Conventions"] == b"ODIM_H5/V2_3" and file["what"].attrs["version"] == b"H5rad 2.3"
        assert file["dataset1/what"].attrs["starttime"] == b"235000" and file["dataset1/what"].attrs["enddate"] == b"20240229"
        attribute = h5py.h5a.open(file["what"].id, b"object")
        assert attribute.get_type().get_strpad() == h5py.h5t.STR_NULLTERM and attribute.get_type().get_size() == 5


def test_a_frame_whose_row_0_is_south_is_turned(tmp_path):
    rain = np.arange(6.0).reshape(3, 2)
    write_odim(tmp_path / "a.h5", rain, quantity="RATE", grid=Grid(LAEA, GRID.corners, "south"), time=TIME, gain=1)
    np.testing.assert_array_equal(physical(Odim(tmp_path))[0], rain[::-1])
    assert Odim(tmp_path).facts["grid"].row_origin == "north"


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    write_odim(path, np.ones((2, 2)), quantity="RATE", grid=GRID, time=TIME, gain=1)
    before = path.read_bytes()

    def fail(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(h5py.Group, "create_dataset", fail)
    with pytest.raises(OSError, match="No space"):
        write_odim(path, np.zeros((2, 2)), quantity="RATE", grid=GRID, time=TIME, gain=1)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("values", "changes", "sentence"),
    [
        ([1.0], {}, "rows and columns"),
        ([[math.inf]], {}, "finite rows and columns"),
        ([[1.0]], {"gain": 0}, "gain above 0"),
        ([[1.0]], {"offset": math.nan}, "finite offset"),
        ([[1.0]], {"grid": Grid(LAEA, (1.0, 1.0, 0.0, 0.0))}, "left, bottom, right, top"),
        ([[1.0]], {"grid": Grid("+proj=nonsense", GRID.corners)}, "is no projection"),
        ([[1.0]], {"grid": Grid("+proj=laea +nadgrids=/etc/passwd", GRID.corners)}, "no PROJ string"),
    ],
)
def test_what_cannot_be_written(tmp_path, values, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        write_odim(tmp_path / "a.h5", values, **({"quantity": "RATE", "grid": GRID, "time": TIME, "gain": 1.0} | changes))
    assert list(tmp_path.iterdir()) == []


def test_without_pyproj_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyproj", None)
    with pytest.raises(UserError, match=r"'pyproj': pip install 'stpredict\[radar\]'"):
        write_odim(tmp_path / "b.h5", np.zeros((2, 2)), quantity="RATE", grid=GRID, time=TIME, gain=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quantity", ["RATE", "DBZH"])
def test_another_reader_reads_what_is_written(tmp_path, quantity):
    importers = pytest.importorskip("pysteps").io.importers
    values = np.array([[-30.0, 0.5, 3.0], [np.nan, 12.5, 40.0]])
    offset = -30.0 if quantity == "DBZH" else 0.0
    write_odim(tmp_path / "a.h5", values, quantity=quantity, grid=GRID, time=TIME, gain=0.5, offset=offset, dtype="uint8")
    theirs, _, about = importers.import_odim_hdf5(str(tmp_path / "a.h5"), qty=quantity)
    np.testing.assert_array_equal(theirs, np.maximum(values, offset))
    np.testing.assert_allclose([about[name] for name in ("x1", "y1", "x2", "y2")], GRID.corners, rtol=0, atol=0.01)
    np.testing.assert_array_equal(physical(Odim(tmp_path, no_echo=-30))[0], theirs)
