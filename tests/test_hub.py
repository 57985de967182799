"""Predictors on a Hub: a server of our own speaks to the real client, and keeps what is pushed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants

from stpredict.errors import UserError
from stpredict.frames import FrameSpec, Transform
from stpredict.hub import PREDICTOR_FILE, pull_predictor, push_predictor
from stpredict.networks import create_network
from stpredict.predictor import Predictor, load_predictor

SETTINGS = {"hidden": [4], "kernel_size": 3, "patch_size": 4}
TOKEN = "hf_" + "a" * 34


class Hub(ThreadingHTTPServer):
    """The few addresses of a Hub that pushing and pulling use: repositories, small files in commits, large files by their hash."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.broken = False


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: Any) -> None: ...

    def give(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def tell(self, plain: Any) -> None:
        self.give(200, json.dumps(plain).encode(), Content_Type="application/json")

    def do_POST(self) -> None:
        body, path, hub = self.rfile.read(int(self.headers.get("Content-Length") or 0)), self.path.partition("?")[0], self.server
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.give(401, b'{"error": "Invalid username or password."}', X_Error_Message="Invalid username or password.")
        elif hub.broken:
            self.give(422, b"", X_Error_Message="out of order")
        elif path == "/api/repos/create":
            asked = json.loads(body)
            hub.created.append(asked)
            name = f"{asked['organization']}/{asked['name']}"
            hub.repositories.setdefault(name, {})
            self.tell({"url": f"{hub.address}/{name}"})
        elif path == "/api/validate-yaml":
            self.tell({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            self.tell({"files": [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = [{**one, "actions": {"upload": {"href": f"{hub.address}/large/{one['oid']}"}}} for one in objects]
            self.tell({"transfer": "basic", "objects": actions})
        elif "/commit/" in path:
            repository = "/".join(path.split("/")[3:5])
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.repositories[repository][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.repositories[repository][value["path"]] = hub.large[value["oid"]]
            oid = "c" * 40
            self.tell({"commitUrl": f"{hub.address}/{repository}/commit/{oid}", "commitOid": oid, "success": True})
        else:
            self.give(404)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = hashlib.sha256(content).hexdigest()
        self.server.large[oid] = content
        self.give(200 if self.path.endswith(oid) else 400)

    def do_GET(self) -> None:
        if self.path.count("/") != 5:
            self.give(404)
            return
        owner, name, resolve, revision, file = self.path.split("/")[1:]
        files = self.server.repositories.get(f"{owner}/{name}")
        if files is None:
            self.give(404, X_Error_Code="RepoNotFound")
        elif revision != "main":
            self.give(404, X_Error_Code="RevisionNotFound", X_Error_Message=f"Invalid rev id: {revision}")
        elif resolve != "resolve" or file not in files:
            self.give(404, X_Error_Code="EntryNotFound")
        else:
            digest = hashlib.sha256(files[file]).hexdigest()
            self.give(200, files[file], ETag=f'"{digest}"', X_Repo_Commit="c" * 40)

    do_HEAD = do_GET


def point_at(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what HF_ENDPOINT does before the client is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        point_at(server, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        server.shutdown()


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(3)
    network = create_network("convlstm", channels=1, frame_size=(8, 12), **SETTINGS)
    spec = FrameSpec(1, 8, 12, "mm/h", Transform("sqrt", 0.0, 100.0))
    provenance = {"run": "rain-1", "step": 7, "validation_mse": 0.0123456, "data": {"card": "knmi", "context": 6}}
    return Predictor(network, spec, 6, 4, network_name="convlstm", network_settings=SETTINGS, provenance=provenance, name="rain-1")


def test_what_is_pushed_can_be_pulled(hub: Hub, predictor: Predictor, tmp_path: Path) -> None:
    assert push_predictor(predictor, "me/rain", private=True, licence="apache-2.0") == f"{hub.address}/me/rain/commit/{'c' * 40}"
    assert [asked["visibility"] for asked in hub.created] == ["private"]
    assert set(hub.repositories["me/rain"]) == {"README.md", PREDICTOR_FILE}
    pulled = pull_predictor("me/rain", tmp_path / "rain.safetensors", revision="main")
    assert (tmp_path / "rain.safetensors").read_bytes() == hub.repositories["me/rain"][PREDICTOR_FILE]
    assert [file.name for file in tmp_path.iterdir()] == ["rain.safetensors"]
    observed = torch.rand(2, 6, 1, 8, 12, generator=torch.Generator().manual_seed(0)) * 100
    assert torch.equal(pulled.forecast(observed, 4), predictor.forecast(observed, 4))
    assert (pulled.name, pulled.provenance) == ("rain.safetensors", predictor.provenance)


def test_the_model_card_says_what_is_known(hub: Hub, predictor: Predictor) -> None:
    push_predictor(predictor, "me/rain")
    assert "visibility" not in hub.created[0], "as the Hub makes it"
    _, front, text = hub.repositories["me/rain"]["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(front) == {"library_name": "stpredict", "tags": ["stpredict", "video-prediction", "convlstm"]}
    assert text.startswith("# rain\n\nA `convlstm` network that continues films: from 6 frames of 1 x 8 x 12 in units of mm/h")
    for line in (
        "- Data: `knmi`",
        "- Score: mean squared error 0.0123456 on the validation split, in scaled values",
        "- Licence: not known",
        "stpredict hub pull me/rain --out rain.safetensors",
        'predictor = stpredict.pull_predictor("me/rain", "rain.safetensors")',
        "scaled      sqrt, 0 to 0 and 100 to 1; missing is fed as 0",
    ):
        assert line in text.splitlines()
    predictor.provenance = {}
    push_predictor(predictor, "me/rain", licence="cc-by-4.0")
    _, front, text = hub.repositories["me/rain"]["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "cc-by-4.0"
    assert "- Data: not known\n- Score: not known\n- Licence: cc-by-4.0\n" in text


def test_what_is_pulled_is_looked_at_first(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "rain.safetensors").write_bytes(b"what was there")
    for damaged in (b"", b"\x80\x04.", b"\xff" * 100):
        hub.repositories["me/bad"] = {PREDICTOR_FILE: damaged}
        with pytest.raises(UserError, match="'me/bad' on the Hub is no whole predictor file"):
            pull_predictor("me/bad", tmp_path / "rain.safetensors")
    assert (tmp_path / "rain.safetensors").read_bytes() == b"what was there"


def test_code_that_nobody_allowed_is_not_imported(hub: Hub, predictor: Predictor, tmp_path: Path) -> None:
    predictor.network_name = "antigravity:Network"
    predictor.save(tmp_path / "own.safetensors")
    hub.repositories["me/own"] = {PREDICTOR_FILE: (tmp_path / "own.safetensors").read_bytes()}
    with pytest.raises(UserError, match="antigravity:Network"):
        pull_predictor("me/own", tmp_path / "pulled.safetensors")
    assert "antigravity" not in sys.modules and not (tmp_path / "pulled.safetensors").exists()


@pytest.mark.parametrize(
    ("repository", "settings", "sentence"),
    [
        ("me/nothing", {}, "There is no model 'me/nothing' at http.* that you may read"),
        ("me/other", {}, r"'me/other' at http.* holds no predictor\.safetensors: it is no predictor of stpredict"),
        ("me/rain", {"revision": "v9"}, "'me/rain' at http.* has no such revision: Invalid rev id: v9"),
        ("no name", {}, "'no name' is no name of a model on the Hub"),
    ],
)
def test_what_cannot_be_pulled(hub: Hub, repository: str, settings: dict[str, str], sentence: str, tmp_path: Path) -> None:
    hub.repositories |= {"me/other": {"README.md": b""}, "me/rain": {PREDICTOR_FILE: b""}}
    with pytest.raises(UserError, match=sentence):
        pull_predictor(repository, tmp_path / "p.safetensors", **settings)
    with pytest.raises(UserError, match=r"A predictor file ends in \.safetensors, not '\.npz'"):
        pull_predictor(repository, tmp_path / "p.npz")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_pushed(hub: Hub, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="'no name' is no name of a model on the Hub"):
        push_predictor(predictor, "no name")
    hub.broken = True
    with pytest.raises(OSError, match="failed at 'me/rain': out of order"):
        push_predictor(predictor, "me/rain")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match=r"does not let you write 'me/rain' \(Invalid username or password.*'hf auth login'"):
        push_predictor(predictor, "me/rain")
    assert hub.repositories == {}


def test_a_hub_that_does_not_answer(predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub() as closed:
        point_at(closed, monkeypatch)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # before each of the client's trials
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:\d+ cannot be reached"):
        pull_predictor("me/rain", tmp_path / "p.safetensors")
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:\d+ cannot be reached"):
        push_predictor(predictor, "me/rain")


def test_the_commands(hub: Hub, predictor: Predictor, tmp_path: Path) -> None:
    predictor.save(tmp_path / "mine.safetensors")
    surroundings = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}

    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "stpredict", "hub", *words]
        return subprocess.run(command, cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=False)

    pushed = ask("push", "mine.safetensors", "me/rain", "--private", "--licence", "mit")
    assert pushed.returncode == 0 and pushed.stdout == f"{hub.address}/me/rain/commit/{'c' * 40}\n", pushed.stderr
    pulled = ask("pull", "me/rain", "--out", "fetched.safetensors")
    assert pulled.returncode == 0 and pulled.stdout == "fetched.safetensors\n", pulled.stderr
    assert load_predictor(tmp_path / "fetched.safetensors").provenance == predictor.provenance
    refused = ask("pull", "me/nothing", "--out", "nothing.safetensors")
    assert refused.returncode == 2 and "There is no model 'me/nothing'" in refused.stderr and "Traceback" not in refused.stderr
