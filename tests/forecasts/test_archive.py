"""Archived nowcasts: those of pysteps and our own, found by their times, turned and converted to the data's pixels and units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stpredict.baselines import ContextMean, Extrapolation, Persistence
from stpredict.data import load_data
from stpredict.data.card import read_card
from stpredict.data.clips import ClipSet
from stpredict.data.loader import collate
from stpredict.errors import UserError
from stpredict.evaluation import evaluate
from stpredict.forecasts import ForecastArchive
from stpredict.forecasts.nowcast_files import places_of
from stpredict.frames import Clip, Grid
from stpredict.nowcast import forecast_files
from stpredict.predictor import load_predictor
from stpredict.products import Nowcast, write_product

netCDF4 = pytest.importorskip("netCDF4")
pytest.importorskip("xarray")
pyproj = pytest.importorskip("pyproj")

GENERATOR = Path(__file__).resolve().parents[2] / "datasets" / "generators" / "moving_rain.py"
Write = Callable[..., Path]
Start = Callable[[int], np.datetime64]


def rain(*members: int, leads: int = 4) -> NDArray[np.float32]:
    """A forecast ``((M,) T, H, W)`` in mm/h, with zeros."""
    values = np.random.default_rng(3).gamma(0.5, 8.0, (*members, leads, 10, 8)).astype(np.float32)
    return np.where(values < 0.5, np.float32(0), values)


def read(archive: ForecastArchive, data: ClipSet, *indices: int) -> NDArray[np.float32]:
    batch = collate([(index, data[index]) for index in indices])
    forecast: NDArray[np.float32] = archive.forecast_batch(batch, batch.physical(data.packing, "cpu"), data).numpy()
    return forecast


@pytest.fixture(scope="module")
def rainy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rain")
    run_path(str(GENERATOR))["write_sample"](folder, 6, 20, 32)
    return folder


@pytest.mark.parametrize("members", [None, 3])
def test_our_own_products_score_as_the_predictor_does_live(rainy: Path, tmp_path: Path, members: int | None) -> None:
    data = load_data("moving_rain", rainy, "test")
    (tmp_path / "nowcasts" / "may").mkdir(parents=True)
    for index in range(len(data)):
        film, first = data.index[index]
        files = sorted((rainy / "event-06").iterdir())[first : first + data.context]
        assert film == 5 and len(data) == 2
        also = [Persistence(), ContextMean()] if members else []
        forecast_files(Extrapolation(), files, tmp_path / "nowcasts" / "may" / f"{index}.nc", also=also, horizon=8, card="moving_rain")
    archive = load_predictor(tmp_path / "nowcasts")
    assert isinstance(archive, ForecastArchive) and (archive.name, archive.members) == ("nowcasts", members)
    assert list(archive.clips(data, 2)) == [0, 1] and list(archive.clips(data, 1)) == [0] and archive.warnings == ()
    if members is None:
        scores = evaluate([archive, Extrapolation()], data, scores=["mse", "mae", "csi"], baselines=False, device="cpu").scores
        for name, numbers in scores["nowcasts"].items():
            np.testing.assert_allclose(numbers["per_lead"], scores["extrapolation"][name]["per_lead"], rtol=1e-6)
            assert numbers["mean"] == pytest.approx(scores["extrapolation"][name]["mean"], rel=1e-6)
    for index in range(2):
        batch = collate([(index, data[index])])
        physical = batch.physical(data.packing, "cpu")
        kinds = [Extrapolation(), Persistence(), ContextMean()][: members or 1]
        live = torch.stack([torch.nan_to_num(kind.forecast(physical[:, :6], 6), nan=0.0) for kind in kinds], dim=1)
        saved = archive.forecast_batch(batch, physical, data)
        torch.testing.assert_close(saved if members else saved[:, None], live, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("upside_down", [False, True])
@pytest.mark.parametrize("members", [(), (5,)])
def test_what_pysteps_writes(
    tmp_path: Path, radar: type[ClipSet], pysteps_file: Write, start: Start, upside_down: bool, members: tuple[int, ...]
) -> None:
    data, forecast = radar(), rain(*members, leads=6)
    path = pysteps_file(tmp_path / "nowcast.nc", forecast, start(2), data.spec.grid, upside_down=upside_down)
    archive = load_predictor(path)
    assert list(archive.clips(data, 6)) == [2] and archive.members == (5 if members else None) and archive.name == "nowcast.nc"
    np.testing.assert_array_equal(read(archive, data, 2)[0], forecast[..., :4, None, :, :])
    words = "1 nowcast(s) of 6 frames" + (" of 5 members" if members else "")
    assert archive.describe() == f"archive nowcast.nc: {words} in mm/h, from 2020-05-01T23:50:00, by pysteps v1.21.5"
    turned = radar(grid=replace(data.spec.grid, row_origin="south"))
    np.testing.assert_array_equal(read(archive, turned, 2)[0], forecast[..., :4, None, ::-1, :])


def test_the_exporter_of_pysteps_itself(tmp_path: Path, radar: type[ClipSet], start: Start) -> None:
    exporters = pytest.importorskip("pysteps.io.exporters")
    data, forecast = radar(), rain(3)
    left, bottom, right, top = data.spec.grid.corners
    metadata = {"projection": data.spec.grid.projection, "unit": "mm/h", "yorigin": "upper", "cartesian_unit": "m"}
    metadata |= {"x1": left, "y1": bottom, "x2": right, "y2": top}
    exporter = exporters.initialize_forecast_exporter_netcdf(
        str(tmp_path), "nowcast", start(1).astype(object), 5, 4, (10, 8), metadata, n_ens_members=3
    )
    exporters.export_forecast_dataset(forecast, exporter)
    exporters.close_forecast_files(exporter)
    archive = ForecastArchive(tmp_path)
    assert list(archive.clips(data, 6)) == [1] and archive.warnings == ()
    np.testing.assert_array_equal(read(archive, data, 1)[0, :, :, 0], forecast)


def test_a_folder_is_matched_by_time(tmp_path: Path, radar: type[ClipSet], pysteps_file: Write, start: Start) -> None:
    """Whatever the files are called; a nowcast of too few leads, or of other ones, forecasts no clip."""
    data = radar()
    forecasts = {index: rain(leads=4) + index for index in (4, 0, 5)}
    for index, forecast in forecasts.items():
        pysteps_file(tmp_path / f"{9 - index}.nc", forecast, start(index), data.spec.grid)
    pysteps_file(tmp_path / "short.nc", rain(leads=3), start(1), data.spec.grid)
    pysteps_file(tmp_path / "later.nc", rain(), start(2), data.spec.grid, leads=[2, 3, 4, 5])
    pysteps_file(tmp_path / "elsewhen.nc", rain(), start(3) + np.timedelta64(60, "s"), data.spec.grid)
    archive = ForecastArchive(tmp_path)
    assert list(archive.clips(data, 6)) == [0, 4, 5] and list(archive.clips(data, 5)) == [0, 4]
    np.testing.assert_array_equal(read(archive, data, 5, 0)[:, :, 0], np.stack([forecasts[5], forecasts[0]]))
    with pytest.raises(
        UserError,
        match="has no nowcast of clip 1 of 'radar' test, which is forecast from 2020-05-01T23:45:00: its own start from 2020-05-01T23:40",
    ):
        read(archive, data, 1)
    assert "6 nowcast(s) of 3 to 4 frames in mm/h, from 2020-05-01T23:40:00 to" in archive.describe()


def test_finer_steps_than_those_of_the_data(tmp_path: Path, radar: type[ClipSet], pysteps_file: Write, start: Start) -> None:
    """The frames at the times of the clip's leads are taken, every second one."""
    data, forecast = radar(), rain(leads=9)
    archive = ForecastArchive(pysteps_file(tmp_path / "a.nc", forecast, start(0), data.spec.grid, step=150))
    assert list(archive.clips(data, 6)) == [0]
    np.testing.assert_array_equal(read(archive, data, 0)[0, :, 0], forecast[1:8:2])


def test_times_may_be_off_by_the_tolerance_of_the_clock(tmp_path: Path, radar: type[ClipSet], pysteps_file: Write, start: Start) -> None:
    data, forecast, late = radar(), rain(leads=9), np.timedelta64(20, "s")
    archive = ForecastArchive(pysteps_file(tmp_path / "a.nc", forecast, start(2) + late, data.spec.grid, step=150))
    with pytest.raises(UserError, match="The times do not match: no nowcast in"):
        archive.clips(data, 6)
    data.tolerance = 19.0
    with pytest.raises(UserError, match="The times do not match: no nowcast in"):
        archive.clips(data, 6)
    data.tolerance = 20.0
    assert list(archive.clips(data, 6)) == [2]
    np.testing.assert_array_equal(read(archive, data, 2)[0, :, 0], forecast[1:8:2])


def test_the_tolerance_is_that_of_the_card(rainy: Path) -> None:
    card = read_card("moving_rain")
    assert load_data("moving_rain", rainy, "test").tolerance == 0.0
    changed = replace(card, time=replace(card.time, tolerance=30.0))
    assert load_data(changed, rainy, "test").tolerance == 30.0


def test_one_frame_is_never_taken_for_two() -> None:
    moments, wanted = (np.array(numbers, dtype="datetime64[s]") for numbers in ([100, 200, 300], [140, 160, 290]))
    assert places_of(wanted, moments, 40.0).tolist() == [0, 1, 2]  # type: ignore[union-attr]
    assert places_of(wanted, moments, 39.0) is None
    assert places_of(wanted[:2], moments[:1], 100.0) is None


def test_times_that_do_not_match(tmp_path: Path, radar: type[ClipSet], pysteps_file: Write, start: Start) -> None:
    data = radar()
    path = pysteps_file(tmp_path / "a.nc", rain(), np.datetime64("2021-05-01T23:40", "s"), data.spec.grid)
    pysteps_file(tmp_path / "b.nc", rain(), start(0) - np.timedelta64(60, "s"), data.spec.grid)
    words = "those of the first end at 2020-05-01T23:40:00, and the nearest start is 2020-05-01T23:39:00"
    with pytest.raises(UserError, match=f"The times do not match: no nowcast in .* of a clip of 'radar' test end; {words}"):
        ForecastArchive(tmp_path).clips(data, 6)
    pysteps_file(path, rain(leads=3), start(0), data.spec.grid)
    words = (
        "has 3 frames from 2020-05-01T23:45:00 to 2020-05-01T23:55:00, .* start there have 4 from 2020-05-01T23:45:00 to 2020-05-02T00:00"
    )
    with pytest.raises(UserError, match=f"The times do not match: '.*a.nc' {words}"):
        ForecastArchive(path).clips(data, 6)


def test_clips_without_a_clock(tmp_path: Path, radar: type[ClipSet], pysteps_file: Write, start: Start) -> None:
    class Timeless(radar):  # type: ignore[misc, valid-type]
        def __getitem__(self, index: int) -> Clip:
            return replace(super().__getitem__(index), times=None)

    with pytest.raises(UserError, match="found by their times, and the clips of 'radar' test have no clock"):
        ForecastArchive(pysteps_file(tmp_path / "a.nc", rain(), start(0), radar().spec.grid)).clips(Timeless(), 6)


def test_two_of_one_start_time(tmp_path: Path, radar: type[ClipSet], pysteps_file: Write, start: Start) -> None:
    for name in ("a", "b"):
        pysteps_file(tmp_path / f"{name}.nc", rain(), start(0), radar().spec.grid)
    with pytest.raises(UserError, match=r"a\.nc' and '.*b\.nc' are nowcasts of the same start time, 2020-05-01T23:40:00: keep one"):
        ForecastArchive(tmp_path)
    pysteps_file(tmp_path / "b.nc", rain(2), start(1), radar().spec.grid)
    with pytest.raises(UserError, match=r"a\.nc' has 1 member\(s\) and '.*b\.nc' 2: keep them apart"):
        ForecastArchive(tmp_path)


def test_pixels_without_a_value_are_filled_as_a_baselines_are(
    tmp_path: Path, radar: type[ClipSet], pysteps_file: Write, start: Start
) -> None:
    data, forecast = radar(fill=0.25), rain()
    forecast[:, :3], forecast[1, 5, 5] = np.nan, -99.0
    archive = ForecastArchive(pysteps_file(tmp_path / "a.nc", forecast, start(0), data.spec.grid, fill=-99.0))
    expected = np.where(np.isnan(forecast) | (forecast == -99), np.float32(0.25), forecast)
    np.testing.assert_array_equal(read(archive, data, 0)[0, :, 0], expected)


def test_packed_numbers(tmp_path: Path, radar: type[ClipSet], pysteps_file: Write, start: Start) -> None:
    data, forecast = radar(), np.round(rain(), 2)
    archive = ForecastArchive(pysteps_file(tmp_path / "a.nc", forecast, start(0), data.spec.grid, scale=0.01, fill=-1))
    np.testing.assert_allclose(read(archive, data, 0)[0, :, 0], forecast, atol=1e-5)


def test_reflectivity_becomes_rain_and_rain_reflectivity(tmp_path: Path, radar: type[ClipSet], pysteps_file: Write, start: Start) -> None:
    """By Z = a R^b in closed form; what lies at or below the least reflectivity is no rain."""
    rates = rain().astype(np.float64)
    with np.errstate(divide="ignore"):
        dbz = np.where(rates > 0, 10 * np.log10(200 * rates**1.6), -15.0)
    grid = radar().spec.grid
    archive = ForecastArchive(pysteps_file(tmp_path / "a.nc", dbz.astype(np.float32), start(0), grid, unit="dBZ"))
    np.testing.assert_allclose(read(archive, radar(z_r=(200.0, 1.6)), 0)[0, :, 0], rates, rtol=1e-5)
    np.testing.assert_allclose(read(archive, radar(units="dBZ", minimum=-32.0), 0)[0, :, 0], dbz, rtol=1e-6)
    with pytest.raises(UserError, match=r"is in dBZ and the data 'radar' in mm/h: .* takes a and b of Z = a R\^b: give the card"):
        archive.clips(radar(), 6)
    archive = ForecastArchive(pysteps_file(tmp_path / "b.nc", rates.astype(np.float32), start(0), grid))
    expected = np.where(dbz <= -10, -32, dbz)
    seen = read(archive, radar(units="dBZ", z_r=(200.0, 1.6), minimum=-32.0), 0)[0, :, 0]
    np.testing.assert_allclose(seen, expected, rtol=1e-5)


def test_depths_become_rates(tmp_path: Path, radar: type[ClipSet], pysteps_file: Write, start: Start) -> None:
    grid, depth = radar().spec.grid, rain()
    archive = ForecastArchive(pysteps_file(tmp_path / "a.nc", depth, start(0), grid, unit="mm"))
    np.testing.assert_allclose(read(archive, radar(period=300.0), 0)[0, :, 0], depth * 12, rtol=1e-6)
    np.testing.assert_array_equal(read(archive, radar(units="mm", period=300.0), 0)[0, :, 0], depth)
    with pytest.raises(UserError, match="is in mm and the data 'radar' in mm/h: To turn mm into mm/h takes the seconds"):
        archive.clips(radar(), 6)
    rates = ForecastArchive(pysteps_file(tmp_path / "b.nc", depth, start(0), grid))
    np.testing.assert_allclose(read(rates, radar(units="mm", period=600.0), 0)[0, :, 0], depth / 6, rtol=1e-6)


@pytest.mark.parametrize(("told", "factor"), [("m s-1", 3.6e6), ("kg m-2 s-1", 3600.0), ("mm/hr", 1.0)])
def test_other_spellings(tmp_path: Path, radar: type[ClipSet], pysteps_file: Write, start: Start, told: str, factor: float) -> None:
    path = pysteps_file(tmp_path / "a.nc", rain() / np.float32(factor), start(0), radar().spec.grid)
    with netCDF4.Dataset(path, "a") as file:
        file["precip_intensity"].units = told
    np.testing.assert_allclose(read(ForecastArchive(path), radar(), 0)[0, :, 0], rain(), rtol=1e-6)


def test_units_that_are_not_of_rain(tmp_path: Path, radar: type[ClipSet], pysteps_file: Write, start: Start) -> None:
    path = pysteps_file(tmp_path / "a.nc", rain(), start(0), radar().spec.grid)
    with pytest.raises(UserError, match="is in mm/h and the data 'radar' in 1: only mm/h, mm, dBZ can be turned into one another, so"):
        ForecastArchive(path).clips(radar(units="1"), 6)
    with netCDF4.Dataset(path, "a") as file:
        file["precip_intensity"].units = "K"
    with pytest.raises(UserError, match="is in K and the data 'radar' in mm/h: only mm/h, mm, dBZ can be turned into one another"):
        ForecastArchive(path).clips(radar(), 6)


def test_other_pixels_are_refused_with_both_corners(tmp_path: Path, radar: type[ClipSet], pysteps_file: Write, start: Start) -> None:
    grid = radar().spec.grid
    left, bottom, right, top = grid.corners
    beside = replace(grid, corners=(left + 500, bottom, right + 500, top))
    path = pysteps_file(tmp_path / "a.nc", rain(), start(0), beside)
    longitude, latitude = pyproj.Proj(grid.projection)(left + 500, bottom, inverse=True)
    told = rf"a\.nc' lies elsewhere than the data 'radar': it covers \({longitude:.3f}, {latitude:.3f}\) to .* and the data \("
    with pytest.raises(UserError, match=told):
        ForecastArchive(path).clips(radar(), 6)
    with pytest.raises(UserError, match=told):
        read(ForecastArchive(path), radar(), 0)
    pysteps_file(path, rain(), start(0), replace(grid, corners=(left + 50, bottom, right + 50, top)))
    assert list(ForecastArchive(path).clips(radar(), 6)) == [0], "a twentieth of a pixel"
    with pytest.raises(UserError, match=r"it covers .* in 10 x 8 pixels and the data .* in 10 x 9 .* none of its pixels"):
        ForecastArchive(path).clips(radar(width=9), 6)


def test_where_nothing_says_where_pixels_lie_it_is_said(tmp_path: Path, radar: type[ClipSet], pysteps_file: Write, start: Start) -> None:
    path = pysteps_file(tmp_path / "a.nc", rain(), start(0), radar().spec.grid)
    with netCDF4.Dataset(path, "a") as file:
        del file.projection
    archive = ForecastArchive(path)
    assert len(archive.warnings) == 1 and "does not say where its pixels lie" in archive.warnings[0]
    np.testing.assert_array_equal(read(archive, radar(), 0)[0, :, 0], rain())
    assert list(ForecastArchive(path).clips(radar(grid=None), 6)) == [0]
    with pytest.raises(UserError, match="it has 10 x 8 pixels and the data 12 x 8"):
        archive.clips(radar(height=12), 6)
    with pytest.raises(UserError, match=r"has frames of 1 channel\(s\), and the data 'radar' of 2"):
        archive.clips(radar(channels=2), 6)


@pytest.mark.parametrize("upside_down", [False, True])
def test_the_data_may_be_a_crop(tmp_path: Path, radar: type[ClipSet], pysteps_file: Write, start: Start, upside_down: bool) -> None:
    path = pysteps_file(tmp_path / "a.nc", rain(), start(0), radar().spec.grid, upside_down=upside_down)
    grid = radar().spec.grid.crop(2, 1, 5, 6, 10, 8)
    np.testing.assert_array_equal(read(ForecastArchive(path), radar(grid=grid, height=5, width=6), 0)[0, :, 0], rain()[:, 2:7, 1:7])


def product(data: ClipSet, start: np.datetime64, **facts: Any) -> Nowcast:
    """A nowcast of ours in the layout of a product."""
    times = start + np.timedelta64(300, "s") * np.arange(-2, 5)
    observed = np.ones((3, *data.spec.shape), np.float32)
    return Nowcast("mine", data.spec, observed, rain()[:, None], times, "radar", "radar", (False,) * 3, facts=facts)


def test_a_late_product_of_a_watch_counts_from_its_cycle(tmp_path: Path, radar: type[ClipSet], start: Start) -> None:
    """Its newest frame is older than the cycle; the frames that it forecasts are those after the cycle."""
    data = radar()
    nowcast = product(data, start(2), watch={"cycle": str(start(2))})
    times = nowcast.times.copy()
    times[:3] -= np.timedelta64(300, "s")
    write_product(tmp_path / "late.nc", replace(nowcast, times=times))
    assert list(ForecastArchive(tmp_path).clips(data, 6)) == [2]
    write_product(tmp_path / "late.nc", replace(nowcast, times=times, facts={}))
    with pytest.raises(UserError, match="The times do not match"):
        ForecastArchive(tmp_path).clips(data, 6)


@pytest.mark.parametrize(
    "grid",
    [
        Grid("+proj=stere +lat_0=90 +lon_0=0 +lat_ts=60 +a=6378.137 +b=6356.752 +x_0=0 +y_0=0", (0, -4415, 700, -3650)),
        Grid("EPSG:21781", (255000, -160000, 965000, 480000)),
        Grid("+proj=longlat +datum=WGS84", (-5, 46, 3, 51), "south"),
    ],
)
def test_our_products_lie_where_their_data_lie(tmp_path: Path, radar: type[ClipSet], start: Start, grid: Grid) -> None:
    """In km or metres, by number or by parameters, from the north or from the south."""
    data = radar(grid=grid)
    write_product(tmp_path / "a.nc", product(data, start(1)))
    archive = ForecastArchive(tmp_path / "a.nc")
    assert list(archive.clips(data, 6)) == [1] and archive.warnings == ()
    np.testing.assert_array_equal(read(archive, data, 1)[0, :, 0], rain())
    with pytest.raises(UserError, match="lies elsewhere"):
        archive.clips(radar(), 6)
