import csv
import math
import pickle
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

import stpredict
from stpredict.data.checking import check_data
from stpredict.data.readers import sevir
from stpredict.data.readers.finding import BadFiles
from stpredict.data.readers.sevir import Sevir
from stpredict.data.readers.sevir_catalogue import read_catalogue
from stpredict.data.storing import prepare_archive
from stpredict.errors import UserError

GENERATORS = Path(__file__).resolve().parents[2] / "datasets" / "generators"
CATALOGUE = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "sevir_meta" / "CATALOG_2019H1_excel_mangled.csv"
needs_catalogue = pytest.mark.skipif(not CATALOGUE.is_file(), reason="the catalogue of SEVIR is not here")
FILE = "vil/2018/SEVIR_VIL_STORMEVENTS_2018_0701_1231.h5"


@pytest.fixture(scope="module")
def sevir_files():
    return SimpleNamespace(**run_path(str(GENERATORS / "sevir.py")))


@pytest.fixture
def sample(sevir_files, tmp_path):
    sevir_files.write_sample(tmp_path)
    return tmp_path


def rows_of(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def change(sevir_files, root, line, **cells):
    """Change cells of the catalogue; lines are counted as an editor does, the header being the first."""
    rows = rows_of(root / "CATALOG.csv")
    rows[line - 2].update({name: str(value) for name, value in cells.items()})
    sevir_files.write_catalogue(root / "CATALOG.csv", rows)


def test_frames_times_and_order(sample):
    reader = Sevir(sample)
    assert (reader.channels, reader.height, reader.width, reader.incomplete, reader.repeated) == (1, 24, 24, 3, 0)
    rows = [row for row in rows_of(sample / "CATALOG.csv") if row["img_type"] == "vil" and float(row["pct_missing"]) == 0]
    assert [film.name for film in reader.films] == [row["id"] for row in rows] and len(rows) == 4
    for film, row in enumerate(rows):
        with h5py.File(sample / "data" / row["file_name"]) as file:
            stored = file["vil"][int(row["file_index"])]
        frames = reader.read(film, range(49))
        assert frames.shape == (49, 1, 24, 24) and frames.dtype == np.uint8
        np.testing.assert_array_equal(frames[:, 0], np.moveaxis(stored, -1, 0))
        np.testing.assert_array_equal(reader.read(film, range(3, 40, 4)), frames[3:40:4])
        moment = datetime.fromisoformat(row["time_utc"])
        minutes = [int(part) for part in row["minute_offsets"].split(":")]
        assert reader.films[film].times.tolist() == [moment + timedelta(minutes=minute) for minute in minutes]
    assert reader.facts == {"units": "1", "time_step": 300.0} and pickle.loads(pickle.dumps(reader)).films[0].name == rows[0]["id"]


def test_frames_that_are_given_out_may_be_changed(sample):
    reader = Sevir(sample)
    reader.read(0, range(5))[:] = 7
    assert (reader.read(0, range(5)) != 7).any()


def test_values():
    """kg/m2 by the formula of the paper, written out for each branch and its edges; 255 is missing."""
    packed = torch.tensor([0, 5, 6, 18, 19, 84, 254, 255], dtype=torch.uint8)
    vil = [0.0, 0.0, 4 / 90.66, 16 / 90.66, math.exp(-64.9 / 38.9), math.exp(0.1 / 38.9), math.exp(170.1 / 38.9), math.nan]
    table = sevir.vil_table()
    assert len(table) == 255 and all(later >= earlier for earlier, later in pairwise(table))
    physical = stpredict.Packing(table=table).unpack(packed)
    np.testing.assert_allclose(physical.numpy(), vil, rtol=1e-6)


def test_raw_values_and_kg_a_square_metre(sample):
    raw, vil = Sevir(sample), Sevir(sample, values="vil")
    packed = torch.tensor([0, 133, 254, 255], dtype=torch.uint8)
    np.testing.assert_array_equal(raw.packing.unpack(packed).numpy(), [0, 133, 254, math.nan])
    np.testing.assert_allclose(vil.packing.unpack(packed).numpy(), [0, math.exp(49.1 / 38.9), math.exp(170.1 / 38.9), math.nan], rtol=1e-6)
    assert (raw.facts["units"], vil.facts["units"]) == ("1", "kg/m2")


def test_clips_are_those_of_the_protocol(sample):
    """Frames 0, 12 and 24 of each event begin a clip of 13 + 12; events are whole in their split; scaled values are value / 255."""
    events = {"train": ["S700000", "S700001"], "validation": ["S701000"], "test": ["S702000"]}
    for split, names in events.items():
        clips = stpredict.load_data("sevir", sample, split)
        films = [clips.reader.films[film].name for film, _ in clips.index]
        assert films == [name for name in names for _ in range(3)]
        assert clips.index[:, 1].tolist() == [0, 12, 24] * len(names)
        assert (clips.context, clips.horizon, clips.gaps, clips.spec.grid, clips.spec.units) == (13, 12, 0, None, "1")
        assert clips.spec.thresholds == (16, 74, 133, 160, 181, 219)
    clip = clips[2]
    assert clip.times[0] == np.datetime64("2019-07-09T23:55") and len(clip.times) == 25
    scaled, _ = clips.spec.scale(clips.packing.unpack(torch.from_numpy(clip.frames)))
    np.testing.assert_allclose(scaled.numpy(), clip.frames / 255.0, atol=1e-6)
    assert check_data("sevir", sample).ok


def test_events_at_the_boundary_are_whole_in_one_split(sevir_files, tmp_path):
    """By the catalogue's time, from which the first frame is 118 to 122 minutes away; a prepared file splits as the archive does."""
    minutes = [datetime(2018, 12, 31, 23, 59), datetime(2019, 1, 1), datetime(2019, 5, 31, 23, 59), datetime(2019, 6, 1)]
    sevir_files.write_sample(tmp_path / "sevir", minutes, size=4)
    prepare_archive("sevir", tmp_path / "sevir", tmp_path / "sevir.h5")
    for root in (tmp_path / "sevir", tmp_path / "sevir.h5"):
        chosen = {split: stpredict.load_data("sevir", root, split) for split in ("train", "validation", "test")}
        begins = {split: sorted({str(clips.reader.films[film].moment) for film, _ in clips.index}) for split, clips in chosen.items()}
        assert begins == {
            "train": ["2018-12-31T23:59:00"],
            "validation": ["2019-01-01T00:00:00", "2019-05-31T23:59:00"],
            "test": ["2019-06-01T00:00:00"],
        }


def test_an_id_that_comes_twice_is_read_once(sevir_files, sample):
    rows = rows_of(sample / "CATALOG.csv")
    sevir_files.write_catalogue(sample / "CATALOG.csv", [rows[0], {**rows[0], "time_utc": "2017-01-01 00:00:00"}, *rows[1:]])
    reader = Sevir(sample)
    assert reader.repeated == 1 and len(reader.films) == 4 and reader.films[0].times[24] == np.datetime64("2018-07-04T18:30")


def test_an_id_is_longer_than_what_the_files_keep_of_it(sevir_files, sample):
    """Random events are called such as R18032123577284; the files keep 10 characters of an id."""
    with h5py.File(sample / "data" / FILE, "r+") as file:
        file["id"][0] = b"R180321235"
    change(sevir_files, sample, 2, id="R18032123577284")
    reader = Sevir(sample)
    assert reader.films[0].name == "R18032123577284" and reader._files[FILE].id_length == 10
    change(sevir_files, sample, 2, id="R18032199577284")
    with pytest.raises(BadFiles, match="holds the event R180321235 at 0, but the catalogue, line 2, has the event R18032199577284"):
        Sevir(sample)


def test_files_may_lie_beside_the_catalogue(sample):
    wanted = Sevir(sample).read(0, range(49))
    (sample / "data" / FILE).rename(sample / Path(FILE).name)
    np.testing.assert_array_equal(Sevir(sample).read(0, range(49)), wanted)


def test_a_file_that_was_packed_anew_is_read_too(sample):
    reader = Sevir(sample)
    wanted = reader.read(1, range(49))
    with h5py.File(sample / "data" / FILE) as file:
        vil, ids = file["vil"][()], file["id"][()]
    with h5py.File(sample / "data" / FILE, "w") as file:
        file["id"] = ids
        file.create_dataset("vil", data=vil, chunks=(1, 24, 24, 49), compression="gzip")
    again = Sevir(sample)
    assert reader._files[FILE].offset is not None and again._files[FILE].offset is None
    np.testing.assert_array_equal(again.read(1, range(49)), wanted)


def test_the_grid_of_an_event(sample):
    pytest.importorskip("pyproj")
    grid = Sevir(sample).grid(0)
    x, y = _laea(-100.8555301, 29.86291091)
    assert grid.corners == pytest.approx((x, y, x + 384000, y + 384000), abs=0.01) and grid.row_origin == "south"
    # The upper right corner of that event in the catalogue.
    assert grid.corners[2:] == pytest.approx(_laea(-96.83814671, 33.35231856), abs=0.01)


def _laea(longitude, latitude, radius=6370997.0, centre=(-98.0, 38.0)):
    """Lambert's azimuthal equal-area projection on a sphere: Snyder, Map Projections (1987), equations 24-2, 22-4, 22-5."""
    lam, phi, phi0 = math.radians(longitude - centre[0]), math.radians(latitude), math.radians(centre[1])
    k = math.sqrt(2 / (1 + math.sin(phi0) * math.sin(phi) + math.cos(phi0) * math.cos(phi) * math.cos(lam)))
    x = radius * k * math.cos(phi) * math.sin(lam)
    return x, radius * k * (math.cos(phi0) * math.sin(phi) - math.sin(phi0) * math.cos(phi) * math.cos(lam))


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        ({"time_utc": "5/12/19 18:30"}, r"line 2, column time_utc: '5/12/19 18:30' is not a time such as 2019-05-12 18:30:00"),
        ({"time_utc": "2019-02-30 18:30:00"}, "line 2, column time_utc"),
        ({"proj": "#NAME?"}, r"line 2, column proj: '#NAME\?' is not a projection"),
        ({"minute_offsets": "#######"}, "line 2, column minute_offsets"),
        ({"minute_offsets": "-120:-125"}, "line 2, column minute_offsets"),
        ({"minute_offsets": "-120:9999999999999999999999"}, "line 2, column minute_offsets"),
        ({"file_index": "1.0"}, "line 2, column file_index: '1.0' is not a whole number"),
        ({"file_name": "../../vil.h5"}, "line 2, column file_name: '../../vil.h5' is not a file below"),
        ({"file_name": "/etc/vil.h5"}, "line 2, column file_name"),
        ({"pct_missing": "none"}, "line 2, column pct_missing: 'none' is not a number"),
        ({"llcrnrlat": "nan"}, "line 2, column llcrnrlat: 'nan' is not a number"),
        ({"width_m": "0"}, "line 2, column width_m"),
        ({"id": " "}, "line 2, column id"),
    ],
)
def test_a_bad_cell_is_named(sevir_files, sample, cells, sentence):
    change(sevir_files, sample, 2, **cells)
    with pytest.raises(UserError, match=sentence):
        Sevir(sample)


def test_a_bad_catalogue(sample, tmp_path):
    path = sample / "CATALOG.csv"
    text = path.read_text()
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert len(Sevir(sample).films) == 4
    path.write_text(text.replace("pct_missing", "percent"))
    with pytest.raises(UserError, match=r"CATALOG\.csv' has no column pct_missing: it is no catalogue of SEVIR"):
        Sevir(sample)
    path.write_text(
        "\n".join(line[: len(line) // 2] for line in text.splitlines()).replace(text.splitlines()[0][:10], text.splitlines()[0], 1)
    )
    with pytest.raises(UserError, match=r"CATALOG\.csv'"):
        Sevir(sample)
    path.write_bytes(np.random.default_rng(0).bytes(4000))
    with pytest.raises(UserError, match=r"CATALOG\.csv'"):
        Sevir(sample)
    path.unlink()
    with pytest.raises(UserError, match=r"no catalogue '.*CATALOG\.csv'"):
        Sevir(sample)


def test_a_file_that_is_not_there_is_named_and_can_be_left_out(sample):
    (sample / "data" / FILE).unlink()
    with pytest.raises(
        BadFiles, match=rf"'{FILE}', which the catalogue names in line 2, is neither in .* get it, or leave it out"
    ) as caught:
        Sevir(sample)
    assert list(caught.value.sentences) == [FILE]
    assert len(Sevir(sample, leave_out=[FILE]).films) == 2
    report = check_data("sevir", sample)
    assert not report.ok and report.films == 2 and any(FILE in problem for problem in report.problems)


def test_a_catalogue_of_other_files_is_found_out(sevir_files, sample):
    change(sevir_files, sample, 2, file_index=3)
    with pytest.raises(BadFiles, match=r"holds 3 events, but the catalogue, line 2, has the event S700000 at file_index 3"):
        Sevir(sample)
    change(sevir_files, sample, 2, file_index=1)
    with pytest.raises(BadFiles, match=r"holds the event S700001 at 1, but the catalogue, line 2, has the event S700000 there"):
        Sevir(sample)
    change(sevir_files, sample, 2, file_index=0, minute_offsets="-120:-115")
    with pytest.raises(BadFiles, match=r"holds 49 frames an event, but the catalogue, line 2, .* with 2 minute_offsets"):
        Sevir(sample)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.999])
def test_a_truncated_file_is_named(sample, share):
    path = sample / "data" / FILE
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(BadFiles, match=r"2018_0701_1231\.h5' is (damaged|truncated)"):
        Sevir(sample)


def test_a_file_cut_while_it_is_used_is_named(sample):
    reader = Sevir(sample)
    path = sample / "data" / FILE
    path.write_bytes(path.read_bytes()[: reader._files[FILE].offset + 1000])
    with pytest.raises(UserError, match=r"2018_0701_1231\.h5' is truncated: event 0 lacks 27224 bytes"):
        reader.read(0, range(49))


def test_a_file_of_another_kind_is_named(sample):
    path = sample / "data" / FILE
    with h5py.File(path) as file:
        vil, ids = file["vil"][()], file["id"][()]
    for contents, sentence in (
        ({"vil": vil.astype(np.float32), "id": ids}, "holds float32 data of shape"),
        ({"vil": vil[0], "id": ids}, "holds uint8 data of shape"),
        ({"vil": vil, "id": ids[:1]}, r"ids of \|S10 and shape \(1,\) for 3 events"),
        ({"IN_vil": vil, "id": ids}, "has no 'vil'"),
        ({"vil": vil[:, :12], "id": ids}, r"holds events of \(24, 24, 49\), but '.*' of \(12, 24, 49\)"),
    ):
        with h5py.File(path, "w") as file:
            for name, data in contents.items():
                file[name] = data
        with pytest.raises(UserError, match=sentence):
            Sevir(sample)
    with h5py.File(path, "w") as file:
        file["id"] = ids
        file.create_dataset("vil", (100_000, 3840, 3840, 49), np.uint8, chunks=(1, 384, 384, 49))
    with pytest.raises(UserError, match=r"declares .* bytes but stores"):
        Sevir(sample)


@needs_catalogue
def test_a_catalogue_that_went_through_a_spreadsheet_is_refused():
    with pytest.raises(UserError, match=r"line 2, column (time_utc: '5/12/19 18:30'|proj: '#NAME\?') is not .* as it was published"):
        read_catalogue(CATALOGUE, "vil")


@needs_catalogue
def test_the_catalogues_other_columns_are_read_right(tmp_path):
    """The lines of a real catalogue, mended where the spreadsheet spoilt them: offsets, lines that lack pixels, corners."""
    text = CATALOGUE.read_text("utf-8-sig").replace("#NAME?", "+proj=laea +lat_0=38 +lon_0=-98 +units=m +a=6370997.0 +ellps=sphere")
    rows = list(csv.DictReader(text.splitlines()))
    for row in rows:
        row["time_utc"] = f"{datetime.strptime(row['time_utc'], '%m/%d/%y %H:%M'):%Y-%m-%d %H:%M:%S}"
    path = tmp_path / "CATALOG.csv"
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    catalogue = read_catalogue(path, "vil")
    assert (len(catalogue.events), catalogue.incomplete, catalogue.repeated) == (525, 326, 0)
    assert {int((event.times[0] - event.moment) / np.timedelta64(1, "m")) for event in catalogue.events} == {-122, -121, -120, -119, -118}
    # Frames are of full five minutes, 49 of them.
    assert all((event.times.astype(int) % 300 == 0).all() and len(event.times) == 49 for event in catalogue.events)
    urcrnr = {row["id"]: (float(row["urcrnrlon"]), float(row["urcrnrlat"])) for row in rows}
    for event in catalogue.events[::40]:
        left, bottom = _laea(*event.corner)
        assert (left + event.extent[1], bottom + event.extent[0]) == pytest.approx(_laea(*urcrnr[event.name]), abs=0.01)
