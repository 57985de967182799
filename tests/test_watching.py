"""Watching a folder: a day of rain goes by in seconds, and everything that can go wrong with its files and the predictor does."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from stpredict.baselines import BASELINES
from stpredict.data.card import read_card
from stpredict.data.newest import newest_clip
from stpredict.data.odim_files import write_odim
from stpredict.errors import UserError
from stpredict.frames import Grid
from stpredict.networks import create_network
from stpredict.nowcast import make_nowcast
from stpredict.predictor import Predictor, read_predictor
from stpredict.watching import Clock, Watched, watch

xarray = pytest.importorskip("xarray")
pytest.importorskip("netCDF4")
pytest.importorskip("pyproj")

CONTEXT, HORIZON, SIZE, STEP = 4, 4, 32, 300
DEADLINE = 6.0
FIRST = datetime(2020, 5, 4)


def generator(name: str) -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "datasets" / "generators" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"generator_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def moment(number: int) -> datetime:
    return FIRST + timedelta(seconds=STEP * number)


def seconds(number: float) -> float:
    return FIRST.replace(tzinfo=UTC).timestamp() + STEP * number


def file_name(number: int) -> str:
    return f"rain_{moment(number):%Y%m%d%H%M}.h5"


def write_rain(folder: Path, frames: int) -> list[Path]:
    """Write the rain of an event with a dry third, whose frame 28 is missing as a whole."""
    rain = generator("moving_rain")
    made = rain.make_event(rain.DRY_EVENT, frames, SIZE)
    made[28:29] = np.nan
    grid = Grid(rain.PROJECTION, (rain.LEFT, rain.TOP - SIZE * rain.PIXEL, rain.LEFT + SIZE * rain.PIXEL, rain.TOP), "north")
    for number, frame in enumerate(made):
        write_odim(folder / file_name(number), frame, quantity="RATE", grid=grid, time=moment(number), seconds=STEP, gain=0.01)
    return [folder / file_name(number) for number in range(frames)]


def save_predictor(folder: Path, files: list[Path]) -> Path:
    for path in files[: CONTEXT + 1]:
        (folder / "few").mkdir(exist_ok=True)
        (folder / "few" / path.name).symlink_to(path)
    spec = newest_clip(read_card("moving_rain"), folder / "few", CONTEXT).spec
    torch.manual_seed(0)
    settings = {"hidden": [4], "kernel_size": 3, "patch_size": 4}
    network = create_network("convlstm", channels=1, frame_size=(SIZE, SIZE), **settings)
    data = {"card": "moving_rain"}
    made = Predictor(network, spec, CONTEXT, HORIZON, network_name="convlstm", network_settings=settings, provenance={"data": data})
    made.save(folder / "model.safetensors")
    return folder / "model.safetensors"


class FastClock(Clock):
    """Time that passes only while the watch waits; a thread does what is due by then."""

    def __init__(self, start: float, plan: list[tuple[float, Callable[[], object]]]) -> None:
        self.time, self.plan = start, sorted(plan, key=lambda item: item[0])
        self.failed: list[BaseException] = []
        self._moments: queue.Queue[float] = queue.Queue()
        threading.Thread(target=self._deliver, daemon=True).start()

    def now(self) -> float:
        return self.time

    def sleep(self, pause: float) -> None:
        self.time += pause
        self._moments.put(self.time)
        self._moments.join()
        assert not self.failed, self.failed

    def _deliver(self) -> None:
        while True:
            now = self._moments.get()
            try:
                while self.plan and self.plan[0][0] <= now:
                    self.plan.pop(0)[1]()
            except OSError as error:
                self.failed.append(error)
            self._moments.task_done()


def children() -> list[int]:
    listed = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    processes = [int(word) for text in listed for word in text.split()]
    return [process for process in processes if b"watching_worker" in Path(f"/proc/{process}/cmdline").read_bytes()]


def hang() -> None:
    (process,) = children()
    os.kill(process, signal.SIGSTOP)


def kill() -> None:
    (process,) = children()
    os.kill(process, signal.SIGKILL)


def kill_idle() -> None:
    kill()
    time.sleep(0.5)


def hang_and_kill() -> None:
    hang()
    threading.Timer(1.0, kill).start()


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "watch.jsonl").read_text().splitlines()]


def plain(model: Any, folder: Path, names: list[str], view: Path, horizon: int) -> Any:
    """Return the forecast that ``stpredict forecast`` makes of just these files."""
    shutil.rmtree(view, ignore_errors=True)
    view.mkdir()
    for name in names:
        (view / name).symlink_to(folder / name)
    return make_nowcast([model], [view], horizon=horizon, card=shorter_card(len(names)))


def shorter_card(context: int) -> Any:
    card = read_card("moving_rain")
    return replace(card, window=replace(card.window, context=context))


def check_product(path: Path, line: dict[str, Any], number: int, folder: Path, view: Path, trained: Predictor) -> None:
    with xarray.open_dataset(path) as data:
        valid = [np.datetime64(moment(number + lead), "s") for lead in range(1, HORIZON + 1)]
        assert data["time"].values.astype("datetime64[s]").tolist() == [time.astype(object) for time in valid]
        assert str(data["forecast_reference_time"].values.astype("datetime64[s]")) == line["data_time"]
        newest = np.datetime64(line["data_time"])
        assert data["lead_time"].values.tolist() == [float((time - newest) / np.timedelta64(1, "s")) for time in valid]
        about, comment = json.loads(data.attrs["stpredict"]), data.attrs["comment"]
        assert about["predictor"] == line["used"] and f"predictor {line['used']} (" in data.attrs["source"]
        assert about["watch"] == {name: line[name] for name in ("cycle", "data_time", "used", "reason", "inputs", "missing")}
        assert data.attrs["input_files"] == ", ".join(line["inputs"])
        assert ("fallback" in comment) == (line["reason"] is not None) and ("none came in time for" in comment) == bool(line["missing"])
        back = round(float((np.datetime64(moment(number)) - newest) / np.timedelta64(STEP, "s")))
        made = trained if line["used"] == trained.name else BASELINES[line["used"]]()
        expected = plain(made, folder, line["inputs"], view, HORIZON + back)
        np.testing.assert_array_equal(data["precip_intensity"].values, expected.forecast[back:, 0])
        np.testing.assert_array_equal(data["observed"].values, expected.observed[:, 0])


@pytest.mark.parametrize("frames", [40, pytest.param(288, marks=pytest.mark.slow)])
def test_a_day_of_rain_in_which_everything_goes_wrong(frames: int, tmp_path: Path) -> None:
    """Every cycle leaves a product that tells what it is, bit for bit a plain forecast of the frames that it names."""
    made, folder, out = tmp_path / "made", tmp_path / "arriving", tmp_path / "out"
    made.mkdir()
    folder.mkdir()
    files = write_rain(made, frames)
    model = save_predictor(tmp_path, files)
    spare = shutil.copy(model, tmp_path / "spare.safetensors")
    start = 6
    holes = {9, 18, *range(60, frames, 37)}
    arrival: dict[int, int] = {12: 14, 20: 23, **{number: number + 2 for number in range(71, frames, 37)}}
    """The first cycle that has a frame which came late or was mended."""

    def put(number: int, content: bytes | None = None, name: str | None = None) -> Callable[[], object]:
        whole = files[number].read_bytes()
        return lambda: (folder / (name or file_name(number))).write_bytes(whole if content is None else content)

    def append(number: int, start: int) -> Callable[[], object]:
        def add() -> None:
            with (folder / file_name(number)).open("ab") as file:
                file.write(files[number].read_bytes()[start:])

        return add

    plan: list[tuple[float, Callable[[], object]]] = []
    for number in range(start + 1, frames):
        whole = files[number].read_bytes()
        if number in (18, *range(60, frames, 74)):
            plan.append((seconds(number) + 5, put(number, whole[: len(whole) // 2])))
        elif number in holes:
            continue
        elif number == 16:
            plan += [(seconds(number) + 5, put(number, whole[:3000])), (seconds(number) + 95, append(number, 3000))]
        elif number == 20:
            flipped = bytes(255 - byte if 100 <= place < 2500 else byte for place, byte in enumerate(whole))
            plan += [(seconds(number) + 5, put(number, flipped)), (seconds(number) + 2 * STEP + 100, put(number))]
        elif number in arrival:
            plan.append((seconds(number) + STEP + 100, put(number)))
        else:
            plan.append((seconds(number) + 5, put(number)))
    plan += [
        (seconds(22) + 100, put(5, files[22].read_bytes(), "again.h5")),
        (seconds(24) - 100, hang),
        (seconds(30) - 100, model.unlink),
        (seconds(32) - 100, hang_and_kill),
        (seconds(34) - 100, lambda: shutil.copy(spare, model)),
    ]
    if frames > 40:
        plan += [(seconds(50) - 200, kill_idle)]
    for number in range(start + 1):
        put(number)()
    clock = FastClock(seconds(start) + 60, plan)
    done = watch(str(model), folder, out, deadline=DEADLINE, cycles=frames - start, poll=30.0, clock=clock)

    log = lines(out)
    assert [line["cycle"] for line in log] == [moment(number).isoformat() for number in range(start, frames)]
    assert sorted(path.name for path in out.glob("*.nc")) == [f"nowcast-{moment(n):%Y%m%dT%H%M}.nc" for n in range(start, frames)]
    assert max(line["seconds"] for line in log) < DEADLINE
    trained = read_predictor(spare)
    trained.name = model.name
    by_fallback = {13: "in a row", 22: "in a row", 24: "no forecast within", 32: "killed by SIGKILL", 33: "There is no predictor"}
    for number, line in zip(range(start, frames), log, strict=True):
        there = {n for n in range(number + 1) if n not in holes and arrival.get(n, 0) <= number}
        complete = [back for back in range(HORIZON + 1) if set(range(number - back - CONTEXT + 1, number - back + 1)) <= there]
        expected = by_fallback.get(number) if complete else "in a row"
        if line["reason"] is None:
            assert line["used"] == model.name and expected is None
        else:  # where the machine is busy, the process may take longer than the deadline to start again
            loading = "still being loaded" in line["reason"] and number in (25, 33, 34, 50)
            assert loading or (expected is not None and expected in line["reason"]), line
        if line["used"] == model.name:
            names = [file_name(n) for n in range(number - complete[0] - CONTEXT + 1, number - complete[0] + 1)]
            assert line["inputs"] == names
        check_product(out / line["product"], line, number, folder, tmp_path / "view", trained)
    assert {line["used"] for line in log} == {model.name, "extrapolation"}
    assert done == Watched(frames - start, sum(line["used"] != model.name for line in log), False) and done.exit_code == 3

    assert [number for number in range(start, 40) if log[number - start]["late"]] == [14, 23]
    assert log[14 - start]["late"] == [file_name(12)] and log[23 - start]["late"] == [file_name(20)]
    broken = [(number, name) for number in range(start, 40) for name in log[number - start]["broken"]]
    assert broken == [(18, file_name(18)), (20, file_name(20))], "the one that is written in two parts is not broken in the end"
    assert log[12 - start]["missing"] == [moment(n).isoformat() for n in (9, 12)]
    notes = [note for line in log for note in line["notes"]]
    told = ["are of the same time, and the first stays", "is gone; the predictor that is loaded goes on", "killed by SIGKILL, and was"]
    assert len(notes) == (2 if frames == 40 else 3) and notes[0].startswith("'again.h5' and ")
    assert all(words in note for note, words in zip(notes, told, strict=False))
    with xarray.open_dataset(out / log[28 - start]["product"]) as data:
        assert np.isnan(data["observed"].values[-1]).all() and np.isfinite(data["precip_intensity"].values).any()
    assert not children()


def test_a_replay_goes_on_where_it_was_and_a_full_disk_does_not_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are made up where that is asked for, as a plain forecast does it."""
    folder, out = tmp_path / "old", tmp_path / "out"
    folder.mkdir()
    files = write_rain(folder, 9)
    files[5].unlink()
    told = {"card": shorter_card(4), "horizon": 2, "fill_gaps": "linear", "ending": ".npz", "replay": True, "institution": "We"}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def narrow(self: Clock, pause: float) -> None:
        """Let no file grow while the first cycles are made: the log is short, a product is not."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))

    monkeypatch.setattr(Clock, "sleep", narrow)
    try:
        done = watch("persistence", folder, out, cycles=1, **told)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done == Watched(1, 1, False)
    monkeypatch.setattr(Clock, "sleep", lambda self, pause: None)
    assert watch("persistence", folder, out, **told) == Watched(5, 0, False), "it ends with the frames"
    log = lines(out)
    assert [line["cycle"] for line in log] == [moment(number).isoformat() for number in range(3, 9)]
    assert "could not be written" in log[0]["reason"] and log[0]["product"] is None and "File too large" in log[0]["reason"]
    assert [line["product"] for line in log[1:]] == sorted(path.name for path in out.glob("*.npz"))
    assert [line["missing"] for line in log] == [[], [], *([[moment(5).isoformat()]] * 4)]
    assert [line["data_time"] for line in log[2:4]] == [moment(4).isoformat(), moment(6).isoformat()]
    for number, line in zip(range(4, 9), log[1:], strict=True):
        view = tmp_path / f"view-{number}"
        view.mkdir()
        for path in files[: number + 1]:
            if path.exists():
                (view / path.name).symlink_to(path)
        back = int(number == 5)
        expected = make_nowcast([BASELINES["persistence"]()], [view], horizon=2 + back, card=shorter_card(4), fill_gaps="linear")
        with np.load(out / line["product"]) as arrays:
            np.testing.assert_array_equal(arrays["forecast"], expected.forecast[back:])
            np.testing.assert_array_equal(arrays["observed"], expected.observed)
            assert arrays["forecast_times"].tolist() == [int(seconds(number + lead)) for lead in (1, 2)]
            about = json.loads(str(arrays["about"]))
        assert about["institution"] == "We" and about["filled"] == expected.about()["filled"]
    os.utime(out / log[1]["product"], (0, 0))
    assert watch("persistence", folder, out, **told) == Watched(), "all is made"
    assert lines(out) == log and (out / log[1]["product"]).stat().st_mtime == 0


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for words, settings in {
        "needs no training, not 'training-mean'": {"fallback": ["training-mean"]},
        "did you mean 'extrapolation'": {"fallback": ["extrapolating"]},
        "'wait' is a number of seconds above 0, not 0": {"wait": 0.0},
        "no rule 'liner' to fill gaps; did you mean 'linear'": {"fill_gaps": "liner"},
        "written as .*, not '.txt'": {"ending": ".txt"},
    }.items():
        with pytest.raises(UserError, match=words):
            watch("persistence", tmp_path / "folder", tmp_path / "out", **settings)
    with pytest.raises(UserError, match="'nothing' could not be loaded: There is no predictor 'nothing'"):
        watch("nothing", tmp_path / "folder", tmp_path / "out")
    assert not children()
