"""``stpredict forecast --watch`` as a process, in real time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stpredict.cli.main import main
from stpredict.data.odim_files import write_odim
from stpredict.frames import Grid

xarray = pytest.importorskip("xarray")
pytest.importorskip("netCDF4")
pytest.importorskip("pyproj")

GRID = Grid("+proj=laea +lat_0=55 +lon_0=10 +x_0=1950000 +y_0=-2100000 +ellps=WGS84 +units=m +no_defs", (0.0, 0.0, 16e3, 16e3), "north")
CARD = """
reader: odim
settings: {quantity: RATE}
frames: {units: mm/h, minimum: 0}
time: {step: 1, tolerance: 0}
window: {context: 3, horizon: 24}
splits: {by: time, fractions: {train: 0.6, validation: 0.2, test: 0.2}}
"""


def put(folder: Path, second: int) -> None:
    """Write a frame whose rain tells its time."""
    values = np.full((8, 8), 1.0 + second % 100)
    moment = datetime.fromtimestamp(second, UTC)
    write_odim(folder / f"{second}.h5", values, quantity="RATE", grid=GRID, time=moment, gain=0.5)


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quick.yaml").write_text(CARD)
    (tmp_path / "rain").mkdir()
    return tmp_path


@pytest.fixture
def radar(there: Path) -> Iterator[None]:
    """A frame every second, from four seconds ago on; one in ten is missing."""
    stop = threading.Event()

    def go_on() -> None:
        second = int(time.time()) - 4
        while not stop.is_set():
            if time.time() < second:
                stop.wait(0.05)
                continue
            if second % 10:
                put(there / "rain", second)
            second += 1

    thread = threading.Thread(target=go_on)
    thread.start()
    yield
    stop.set()
    thread.join()


def lines(out: str) -> list[dict[str, Any]]:
    path = Path(out, "watch.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def seconds(line: dict[str, Any]) -> int:
    return round(datetime.fromisoformat(line["cycle"]).replace(tzinfo=UTC).timestamp())


@pytest.mark.usefixtures("radar")
def test_a_watch_that_is_stopped_goes_on_where_it_was(there: Path) -> None:
    words = ["forecast", "persistence", "rain", "--watch", "--data", "quick.yaml", "--out", "out"]
    words += ["--deadline", "20", "--wait", "0.5", "--fallback", "none"]
    command = [sys.executable, "-m", "stpredict", *words]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until = time.monotonic() + 60
    while len(lines("out")) < 2 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert main(words) == 2, "one watch at a time"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (75, "out\n"), err
    before = {path.name: path.stat().st_mtime_ns for path in Path("out").glob("*.nc")}
    assert len(before) == len(lines("out")) >= 2
    assert main([*words, "--cycles", "3"]) == 0
    log = lines("out")
    assert np.diff([seconds(line) for line in log]).tolist() == [1] * (len(log) - 1), "no cycle is left out, and none made twice"
    assert len(log) == len(before) + 3 and {line["product"] for line in log} == {path.name for path in Path("out").glob("*.nc")}
    assert {name: Path("out", name).stat().st_mtime_ns for name in before} == before
    for line in log:
        newest = round(datetime.fromisoformat(line["data_time"]).replace(tzinfo=UTC).timestamp())
        assert line["used"] == "persistence" and line["reason"] is None and newest in range(seconds(line) - 4, seconds(line) + 1)
        with xarray.open_dataset(Path("out", line["product"])) as data:
            assert np.unique(data["precip_intensity"].values).tolist() == [1.0 + newest % 100]
            valid = data["time"].values.astype("datetime64[s]").astype(np.int64)
            assert valid.tolist() == list(range(seconds(line) + 1, seconds(line) + 25))


def test_a_folder_of_old_frames(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the clock of the data, a watch ends with them; where a frame lacks too long, a fallback makes the product, or nothing does."""
    for number in (0, 1, 2, 3, 5, 6, 7):
        put(there / "rain", 1_600_000_000 + number)
    words = ["forecast", "persistence", "rain", "--watch", "--clock", "data", "--data", "quick.yaml"]
    assert main([*words, "--horizon", "1", "--fallback", "extrapolation", "--format", "odim", "--out", "some"]) == 3
    assert capsys.readouterr().out == "some\n"
    used = [(line["used"], line["product"] and line["product"].rpartition("T")[2]) for line in lines("some")]
    makers = ["persistence"] * 3 + ["extrapolation"] * 2 + ["persistence"]
    assert used == [(maker, f"12264{second}.odim.h5") for maker, second in zip(makers, range(2, 8), strict=True)]
    assert main([*words, "--deadline", "1e-6", "--cycles", "1", "--fallback", "none", "--out", "none"]) == 3
    (line,) = lines("none")
    assert (line["used"], line["product"]) == (None, None) and "no time left" in line["reason"]
    assert not list(Path("none").glob("*.nc"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("persistence rain --data knmi --wait 3 --cycles 2 --out next.nc", "--wait, --cycles belong(s) to --watch"),
        ("persistence rain --data knmi --watch --members 3 --seed 1 --out out", "leave --members, --seed out"),
        ("persistence rain other --data knmi --watch --out out", "one folder into which frames come, not 2"),
        ("persistence rain --data knmi --watch --format txt --out out", "not '.txt'"),
        ("persistence rain --watch --out out", "name their card (--data CARD)"),
        ("persistence nowhere --data knmi --watch --out out", "There is no folder 'nowhere' to watch"),
        ("persistence rain --data knmi --watch --fallback none persistence --out out", "not 'none'"),
        ("persistence rain --data knmi --watch --out quick.yaml", "'quick.yaml' is no folder"),
    ],
)
@pytest.mark.usefixtures("there")
def test_what_is_refused(words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forecast", *words.split()]) == 2
    assert sentence in capsys.readouterr().err
