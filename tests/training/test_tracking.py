"""TensorBoard and Weights & Biases get the curves, pictures and films; neither needs a network, nor waits long for one."""

from __future__ import annotations

import io
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from stpredict.render import save_film
from stpredict.training.tracking import WandB, start_trackers

_LEVELS = np.linspace(0.0, 1.0, 5)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A film whose frame t is of one gray, a quarter brighter than the frame before."""
    frames = np.broadcast_to(_LEVELS[:, None, None], (len(_LEVELS), 16, 16)).astype(np.float32)
    return save_film({"true": frames, "predicted": 1 - frames}, tmp_path / "film.gif", colours="gray")


@pytest.fixture
def nobody_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A wandb that knows nothing of whoever runs the tests, nor of the tests before."""
    wandb: Any = pytest.importorskip("wandb")
    wandb.teardown()
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_SERVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    wandb.teardown()


def _events(folder: Path) -> Any:
    """Return what TensorBoard reads of a run."""
    reader: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def _decoded(encoded: bytes) -> NDArray[np.uint8]:
    """Return the frames of a film, ``(T, H, W, 3)``."""
    with Image.open(io.BytesIO(encoded)) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


def _records(path: Path) -> list[bytes]:
    """Return the records of a ``.wandb`` file: 7 bytes of header, then a LevelDB log, whose chunks (CRC, size, kind) fill 32 KiB blocks."""
    content, at, chunks, records = path.read_bytes(), 7, list[bytes](), list[bytes]()
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", content, at)
        chunks.append(content[at + 7 : at + 7 + size])
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last chunk of one
            records.append(b"".join(chunks))
            chunks = []
    return records


def _logged(path: Path) -> list[dict[str, Any]]:
    """Return what a ``.wandb`` file holds of the numbers and media logged, step by step."""
    pytest.importorskip("wandb").teardown()  # its service may still be writing after a run has finished
    kind: Any = pytest.importorskip("wandb.proto.wandb_internal_pb2").Record
    records = [kind.FromString(data) for data in _records(path)]
    steps = [record.history.item for record in records if record.WhichOneof("record_type") == "history"]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items} for items in steps]


def test_csv_needs_no_tracker(tmp_path: Path) -> None:
    assert start_trackers(("csv",), tmp_path, {}) == []


def test_tensorboard_holds_the_numbers_and_the_picture(tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "p.png"), np.full((4, 6, 3), (10, 20, 30), np.uint8))
    pytest.importorskip("tensorboard")
    (tracker,) = start_trackers(("csv", "tensorboard"), tmp_path, {})
    tracker.scalars(3, {"loss": 0.25})
    tracker.scalars(6, {"loss": 0.125})
    tracker.picture(6, "forecast", tmp_path / "p.png")
    tracker.close()
    events = _events(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(3, 0.25), (6, 0.125)]
    image = cv2.imdecode(np.frombuffer(events.Images("forecast")[0].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None and image[0, 0].tolist() == [10, 20, 30]


def test_tensorboard_holds_the_film_as_it_was_written(tmp_path: Path, film: Path) -> None:
    pytest.importorskip("tensorboard")
    (tracker,) = start_trackers(("tensorboard",), tmp_path, {})
    tracker.film(7, "film", film)
    tracker.close()
    events = _events(tmp_path)
    (image,) = events.Images("film")
    frames = _decoded(image.encoded_image_string)
    assert image.step == 7 and frames.shape[:3] == (len(_LEVELS), image.height, image.width)
    assert np.array_equal(frames, _decoded(film.read_bytes()))
    # The left panel brightens and the right one darkens; a palette of 256 colours is off by a few.
    row, left, right = image.height // 2, image.width // 4, 3 * image.width // 4
    assert np.abs(frames[:, row, left] - 255 * _LEVELS[:, None]).max() <= 5
    assert np.abs(frames[:, row, right] - 255 * _LEVELS[::-1, None]).max() <= 5


@pytest.mark.usefixtures("nobody_logged_in")
def test_wandb_is_offline_when_nobody_is_logged_in(tmp_path: Path, film: Path) -> None:
    folder, said = tmp_path / "demo-1", list[str]()
    folder.mkdir()
    (tracker,) = start_trackers(("wandb",), folder, {"seed": 1}, said.append)
    tracker.scalars(1, {"loss": 0.5})
    tracker.film(2, "film", film)
    tracker.close()
    (offline,) = (folder / "wandb").glob("offline-run-*")
    (copied,) = (offline / "files" / "media" / "videos").glob("film_*.gif")
    assert copied.read_bytes() == film.read_bytes()
    first, second = _logged(next(offline.glob("*.wandb")))
    assert (first["loss"], first["_step"]) == (0.5, 1)
    assert second["film/_type"] == "video-file" and second["film/path"] == f"media/videos/{copied.name}"
    assert len(said) == 1 and said[0].startswith("wandb is offline: nobody is logged in; upload later with: wandb sync ")


@pytest.mark.usefixtures("nobody_logged_in")
def test_wandb_goes_on_offline_when_the_server_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, said = tmp_path / "demo-2", list[str]()
    folder.mkdir()
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(16)  # the kernel accepts, nobody answers
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{hole.getsockname()[1]}")
        monkeypatch.setenv("WANDB_MODE", "online")
        began = time.monotonic()
        tracker = WandB(folder, {}, said.append, seconds=1.0)
        started = time.monotonic()
        for step in range(100):
            tracker.scalars(step, {"loss": 1.0 / (step + 1)})
        tracker.close()
        ended = time.monotonic()
    assert started - began < 12 and ended - started < 5  # 3.5 s and 0.1 s on an idle machine; wandb alone would take 90 s
    (offline,) = (folder / "wandb").glob("offline-run-*")
    assert [row["loss"] for row in _logged(next(offline.glob("*.wandb")))] == [1.0 / (step + 1) for step in range(100)]
    assert len(said) == 1 and said[0].startswith("wandb is offline: ") and f"wandb sync {folder}/wandb/offline-run-*" in said[0]


class _Server(BaseHTTPRequestHandler):
    """As much of wandb's server as starts a run; it answers nothing after ``silence`` is set."""

    protocol_version = "HTTP/1.1"
    silence, over = threading.Event(), threading.Event()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.silence.is_set():
            self.over.wait(60)
            self.close_connection = True
            return
        query = json.loads(body) if self.path == "/graphql" else {}
        answer: dict[str, Any] = {}
        if query.get("operationName") == "UpsertBucket":
            name, project = query["variables"]["name"], {"id": "1", "name": "stpredict", "entity": {"id": "2", "name": "somebody"}}
            bucket = {"id": "3", "name": name, "displayName": name, "config": "{}", "historyLineCount": 0, "project": project}
            answer = {"upsertBucket": {"bucket": bucket, "inserted": True}}
        data = json.dumps({"data": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.usefixtures("nobody_logged_in")
def test_wandb_ends_in_time_when_the_server_falls_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, said = tmp_path / "demo-3", list[str]()
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    tracker = WandB(folder, {}, said.append, seconds=3.0)
    assert said == [] and not tracker.run.offline
    _Server.silence.set()
    for step in range(100):
        tracker.scalars(step, {"loss": 1.0 / (step + 1)})
    began = time.monotonic()
    tracker.close()
    assert time.monotonic() - began < 10  # 3.1 s on an idle machine; wandb alone would wait until all is uploaded
    _Server.over.set()
    server.shutdown()
    server.server_close()
    (online,) = (folder / "wandb").glob("run-*")
    assert [row["loss"] for row in _logged(next(online.glob("*.wandb")))] == [1.0 / (step + 1) for step in range(100)]
    assert said == [f"wandb could not upload all in 3 s; nothing is lost, upload later with: wandb sync --no-skip-online {online}"]
