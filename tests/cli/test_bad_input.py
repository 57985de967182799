"""What cannot be done: one sentence that names the thing, exit code 2 (1 where the system fails), and nothing half-written."""

from __future__ import annotations

import gzip
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import stpredict
from stpredict.checkpoint import Checkpoint, checkpoints
from stpredict.cli.main import main

TINY = """
data:
  card: moving_digits
  context: 3
  horizon: 2
  batch_size: 2
  workers: 0
  settings: {digits: 1, size: 32, validation_clips: 2, test_clips: 3}
network: {name: predrnn, hidden: [4], kernel_size: 3, patch_size: 4}
trainer: {max_steps: 4, validate_every: 0, checkpoint_every: 2, log_every: 1, threads: 1, device: cpu}
"""
FILMS = TINY.replace("  card: moving_digits\n", "  card: thw.yaml\n").replace(
    "  settings: {digits: 1, size: 32, validation_clips: 2, test_clips: 3}\n", ""
)
SPLITS = "splits: {by: time, fractions: {train: 0.5, validation: 0.25, test: 0.25}}\n"
THW = "reader: arrays\nsettings: {axes: THW}\nwindow: {context: 3, horizon: 2}\n" + SPLITS
IMAGES = "reader: folders\nwindow: {context: 3, horizon: 2}\n" + SPLITS

Refused = Callable[[str], str]


def ask(command: str) -> None:
    """Run a command that must do what is asked of it."""
    assert main(command.split()) == 0


def cut(path: Path, name: str, share: float = 0.5) -> None:
    """Write the first part of a file under another name beside it."""
    content = path.read_bytes()
    (path.parent / name).write_bytes(content[: int(len(content) * share)])


@pytest.fixture(scope="module")
def attic(tmp_path_factory: pytest.TempPathFactory, films: ModuleType, knmi_files: ModuleType) -> Path:
    """A folder full of things that cannot be used, and a few that can."""
    folder = tmp_path_factory.mktemp("attic")
    for name, text in {"tiny.yaml": TINY, "films.yaml": FILMS, "thw.yaml": THW, "images.yaml": IMAGES}.items():
        (folder / name).write_text(text)
    (folder / "empty").mkdir()
    film = films.wandering_square(40, 32, 32)
    np.save(folder / "film.npy", film)
    np.savez_compressed(folder / "film.npz", film)
    with h5py.File(folder / "film.h5", "w") as file:
        file["film"] = film
    films.write_video(folder / "film.mp4", film)
    for suffix in ("npy", "npz", "h5", "mp4"):
        cut(folder / f"film.{suffix}", f"cut.{suffix}")

    idx = struct.pack(">4I", 0x803, 10000, 28, 28) + bytes(10000 * 28 * 28)
    contents = {"cut-gz": gzip.compress(idx)[:-900], "cut-idx": idx[:-1], "magic": struct.pack(">I", 0x801) + idx[4:]}
    for name, content in contents.items():
        (folder / name).mkdir()
        (folder / name / f"t10k-images-idx3-ubyte{'.gz' if name == 'cut-gz' else ''}").write_bytes(content)

    np.save(folder / "rank.npy", film[0])
    np.save(folder / "dtype.npy", film.astype(np.complex64))
    np.save(folder / "pickled.npy", np.array([{"run": "me"}]), allow_pickle=True)
    for name, value in {"nan": np.nan, "infinite": np.inf}.items():
        spoilt = film.astype(np.float32) / 255
        spoilt[:, 3, 3] = value
        np.save(folder / f"{name}.npy", spoilt)

    (folder / "two-arrays").mkdir()
    np.save(folder / "two-arrays" / "a.npy", film)
    np.save(folder / "two-arrays" / "b.npy", film[:, :16])
    for name, part in {"a": film, "b": film[:, :16]}.items():
        films.write_video(folder / "two-videos" / f"{name}.mp4", part)
    for name in ("two-images", "cut-image"):
        films.write_folder(folder / name, film)
    Image.fromarray(film[0, :16, :16]).save(folder / "two-images" / "frame36.png")
    cut(folder / "cut-image" / "frame0.png", "frame36.png")

    knmi_files.write_sample(folder / "cut-radar", frames=12)
    file = next((folder / "cut-radar").iterdir())
    cut(file, file.name)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ask("train tiny.yaml --run.folder run")
        ask("train tiny.yaml --run.folder wider --network.hidden [6]")
        ask("train tiny.yaml --run.folder other --network.name convlstm")
        ask("evaluate run --data moving_digits --no-baselines --save-forecasts saved.h5")
    cut(folder / "run" / "last.safetensors", "cut.safetensors")
    return folder


def everything(folder: Path) -> dict[str, int]:
    """Return all that there is in a folder, and when it was last changed."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def refused(attic: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that is asked wrongly: 2, one line on stderr, nothing written. Returns the line."""
    monkeypatch.chdir(attic)

    def run(command: str) -> str:
        before = everything(attic)
        capsys.readouterr()
        assert main(command.split()) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("stpredict: ") and err.count("\n") == 1, (out, err)
        assert everything(attic) == before
        return err

    return run


READERS = ["knmi", "array", "video", "frames_folder", "moving_mnist"]


@pytest.mark.parametrize("root", ["nowhere", "empty"])
@pytest.mark.parametrize("card", READERS)
def test_a_folder_that_is_missing_or_empty(refused: Refused, card: str, root: str) -> None:
    assert root in refused(f"evaluate persistence --data {card} --root {root} --out scores.json")
    assert root in refused(f"render persistence --data {card} --root {root} --out film.mp4")
    assert root in refused(f"train films.yaml --data.card {card} --data.root {root} --run.folder new")


def test_no_folder_at_all(refused: Refused) -> None:
    assert "--root FOLDER" in refused("evaluate persistence --data knmi")
    assert "nowhere.npy" in refused("forecast persistence nowhere.npy --out next.npz")
    assert "nowhere" in refused("data check knmi --root nowhere")
    assert "nowhere" in refused("data preview video --root nowhere --out preview.mp4")


DAMAGED = [
    ("moving_mnist", "cut-gz", "t10k-images-idx3-ubyte.gz is damaged or cut off"),
    ("moving_mnist", "cut-idx", "t10k-images-idx3-ubyte should hold 10000 images"),
    ("moving_mnist", "magic", "t10k-images-idx3-ubyte is no idx file of images: its magic number is 0x00000801"),
    ("thw.yaml", "cut.npy", "cut.npy' is truncated"),
    ("thw.yaml", "cut.npz", "cut.npz' is damaged"),
    ("thw.yaml", "cut.h5", "cut.h5' is damaged"),
    ("video", "cut.mp4", "cut.mp4' is damaged"),
    ("knmi", "cut-radar", "RAD_NL25_RAP_5min_"),
    ("images.yaml", "cut-image", "frame36.png' is damaged"),
    ("thw.yaml", "rank.npy", "rank.npy' holds an array (32, 32) of 2 axes, but the card's axes are 'THW'"),
    ("thw.yaml", "dtype.npy", "dtype.npy' holds complex64"),
    ("thw.yaml", "pickled.npy", "pickled.npy' holds object"),
    ("thw.yaml", "nan.npy", "nan.npy' holds NaN, which its card does not allow"),
    ("thw.yaml", "infinite.npy", "infinite.npy' holds infinity"),
    ("thw.yaml", "two-arrays", "b.npy' holds 1 x 16 x 32 frames of uint8, but"),
    ("video", "two-videos", "b.mp4' holds frames of 16 x 32 pixels, but"),
    ("images.yaml", "two-images", "frame36.png' is 16 x 16 pixels, but"),
]


@pytest.mark.parametrize(("card", "root", "sentence"), DAMAGED, ids=[root for _, root, _ in DAMAGED])
def test_files_that_cannot_be_used(refused: Refused, card: str, root: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentence in refused(f"evaluate persistence --data {card} --root {root} --context 3 --horizon 2 --out scores.json")
    assert main(["data", "check", card, "--root", root]) == 2
    assert any(line.startswith("  problem: ") and sentence in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("name", ["cut.npy", "cut.npz", "cut.h5", "cut.mp4", "rank.npy", "dtype.npy", "nan.npy"])
@pytest.mark.parametrize("out", ["next.npz", "next.mp4"])
def test_a_forecast_of_files_that_cannot_be_used(refused: Refused, name: str, out: str) -> None:
    assert name in refused(f"forecast persistence {name} --out {out}")


@pytest.mark.parametrize("name", ["cut.npy", "cut.npz", "cut.h5", "rank.npy", "dtype.npy"])
def test_training_on_files_that_cannot_be_used(refused: Refused, name: str) -> None:
    assert name in refused(f"train films.yaml --data.root {name} --run.folder new")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_number_found_while_training(
    attic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    """It can only be found once the run has begun; the run stays as it was, and goes on when the file has been mended."""
    monkeypatch.chdir(attic)
    capsys.readouterr()
    assert main(f"train films.yaml --data.root nan.npy --data.workers {workers} --run.folder {tmp_path}/run".split()) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("stpredict: 'nan.npy' holds NaN") and "Traceback" not in last
    ask(f"resume {tmp_path}/run --data.root film.npy --data.workers 0")


IMPOSSIBLE = [
    ("--trainer.max_step 3", "no key 'trainer.max_step'; did you mean 'max_steps'?"),
    ("--trainr.max_steps 3", "no key 'trainr'; did you mean 'trainer'?"),
    ("--network.hiden [4]", "no key 'network.hiden'; did you mean 'hidden'?"),
    ("--network.weigths other", "no key 'network.weigths'; did you mean 'weights'?"),
    ("--data.cont 3", "no key 'data.cont'; did you mean 'context'?"),
    ("--loss.nam l1", "no key 'loss.nam'; did you mean 'name'?"),
    ("--data.settings.sze 40", "sze'; did you mean 'size'?"),
    ("--network.name predrn", "no network 'predrn'; did you mean 'predrnn'?"),
    (
        "--loss.name l3",
        "no loss 'l3'; known: almost-fair-crps, balanced, crps, events, l1, l1+l2, l2, multi-scale, quantile, rain-weighted, ssim, sum",
    ),
    ("--data.card moving_digit", "no card 'moving_digit'"),
    ("--dev cpu", "no option '--dev'; did you mean '--device'?"),
    ("--seeed 3", "no option '--seeed'; did you mean '--seed'?"),
    ("--seed one", "seed wants a whole number, not 'one'"),
    ("--trainer.max_steps 0", "trainer.max_steps must be at least 1, not 0"),
    ("--trainer.max_steps", "--trainer.max_steps has no value"),
    ("--trainer.threads 0", "trainer.threads must be at least 1, not 0"),
    ("--data.context 0", "context must be at least 1, not 0"),
    ("--data.horizon 0", "horizon must be at least 1, not 0"),
    ("--data.horizon -2", "horizon must be at least 1, not -2"),
    ("--data.batch_size 0", "data.batch_size must be at least 1"),
    ("--network.patch_size 64", "'patch_size' 64 is larger than the frame of 32 x 32 pixels"),
    ("--network.patch_size 0", "'patch_size' must be at least 1, not 0"),
    ("--network.kernel_size 4", "'kernel_size' must be odd"),
    ("--network.hidden [4,5]", "all layers must be equally wide, not [4, 5]"),
    ("--network.hidden []", "'hidden' lists the channels of each layer"),
    ("--network.hidden 4", "network.hidden wants a list of whole numbers"),
    ("--network.channels 3", "'network.channels' follows from the data"),
    ("--data.settings.size 20", "Digits of 28 pixels need a larger canvas than 20"),
    ("--optimizer.learning_rate 0", "optimizer.learning_rate"),
    ("--network.weights wider", "'cells.0.x.0.weight' is (42, 16, 3, 3) instead of (28, 16, 3, 3)"),
    ("--network.weights other", "'cells.0.m.0.weight' is missing"),
    ("--network.weights nowhere", "no predictor 'nowhere'"),
    ("--network.weights cut.safetensors", "no predictor 'cut.safetensors'"),
    ("--network.weights run/cut.safetensors", "cut.safetensors is no whole predictor file"),
    ("--network.weights persistence", "has no weights to start from"),
]


@pytest.mark.parametrize(("words", "sentence"), IMPOSSIBLE, ids=[words for words, _ in IMPOSSIBLE])
def test_a_config_that_cannot_be_run(refused: Refused, words: str, sentence: str) -> None:
    assert sentence in refused(f"train tiny.yaml --run.folder new {words}")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--data.context 90", "The longest film of 'thw' has 40 frames, but a clip needs 92"),
        ("--data.context 8", "The split 'validation' of 'thw' has no clip"),
        ("--data.crop [0,0,64,64]", "reaches beyond the 32 x 32 frames"),
        ("--data.batch_size 64", "has 16 clips, fewer than data.batch_size 64"),
        ("--data.stride 0", "stride must be at least 1, not 0"),
        ("--data.resize [2,2]", "larger than the frame of 2 x 2 pixels"),
    ],
)
def test_data_that_do_not_fit_the_config(refused: Refused, words: str, sentence: str) -> None:
    assert sentence in refused(f"train films.yaml --data.root film.npy --trainer.validate_every 1 --run.folder new {words}")


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("train run/config.yaml --run.folder run", "The run folder run exists, and a run is never overwritten"),
        ("train tiny.yaml --run.folder film.npy", "film.npy exists"),
        ("train tinny.yaml", "no config 'tinny.yaml'"),
        ("resume empty", "empty is no run folder"),
        ("resume run --network.hidden [5]", "'network.hidden' is [4] and cannot become [5]"),
        ("resume run --seed 3", "no option '--seed'"),
        ("evaluate run --data moving_digits --split tset", "no split 'tset'; did you mean 'test'?"),
        ("evaluate run --data moving_digits --score mes", "no score 'mes'; did you mean 'mse'?"),
        ("evaluate run --data moving_digits --context 0", "wants a whole number from 1 up, not '0'"),
        ("evaluate run --data moving_digits --out nowhere/scores.json", "no folder 'nowhere' to write 'scores.json' in"),
        ("evaluate run --data moving_digits --save-forecasts saved.txt", "ends in .h5 or .npz, not in '.txt'"),
        ("evaluate run other --data moving_digits --save-forecasts new.h5", "holds the forecasts of one predictor"),
        ("evaluate persistense --data moving_digits", "did you mean 'persistence'?"),
        ("evaluate run/cut.safetensors --data moving_digits", "cut.safetensors is no whole predictor file"),
        ("evaluate run/checkpoints/step-00000004.safetensors --data moving_digits", "not a predictor of stpredict"),
        ("evaluate run --data video --root film.mp4 --context 39", "has 40 frames, but a clip needs 41"),
        ("evaluate run saved.h5 --data moving_digits --horizon 3", "saved.h5 forecasts other clips: horizon 2 instead of 3"),
        ("render run --data moving_digits --clip 3 --out film.mp4", "has clips 0 to 2, not 3"),
        ("render run --data moving_digits --out film.mp5", "names no known format"),
        ("render run --data moving_digits --out nowhere/film.mp4", "no folder 'nowhere'"),
        ("render run --data moving_digits --out empty", "'empty' is a folder; name a file"),
        ("forecast run film.npy --out film.txt", "not '.txt'"),
        ("forecast run film.npy --out nowhere/next.npz", "no folder 'nowhere'"),
        ("forecast run film.npy --horizon 0 --out next.npz", "wants a whole number from 1 up, not '0'"),
        ("forecast run film.npy film.npy --out next.npz", "another input has its name"),
        ("forecast persistence film.npy --out next.tif", "these frames have no grid: write 'next.tif' as .npz, .h5 or .nc"),
        ("forecast persistence film.npy --out next.odim.h5", "ODIM_H5 needs frames with a grid and a clock"),
        ("forecast persistence film.npy --out next.nc --members 3", "its 3 members would be equal"),
        ("forecast persistence film.npy --out next.nc --seed 3", "--seed is of what the members of an ensemble draw"),
        ("forecast persistence film.npy --out next.nc --perturb gain=0.2", "say how many (--members N)"),
        ("forecast persistence film.npy --out next.nc --exceed 0.5", "One forecast has no probabilities"),
        ("forecast persistence film.npy --out next.nc --fill-gaps linear", "'film.npy' has no clock"),
        ("forecast persistence film.npy --out next.mp4 --also context-mean", "has room for one forecast"),
        ("forecast saved.h5 film.npy --out next.npz", "saved.h5 holds forecasts of its own clips alone"),
        ("info empty", "The folder empty holds no predictor yet"),
        ("info film.npy", "holds uint8, not forecasts that are scaled to [0, 1]"),
        ("info cut.h5", "cut.h5' is damaged or is no HDF5 file"),
        ("data show kmni", "no card 'kmni'"),
        ("data preview moving_digits --split tests --out preview.png", "did you mean 'test'?"),
    ],
)
def test_commands_that_cannot_be_done(refused: Refused, command: str, sentence: str) -> None:
    assert sentence in refused(command)


@pytest.fixture
def run(attic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run of four steps, to be spoilt."""
    monkeypatch.chdir(attic)
    shutil.copytree(attic / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("source", ["wider", "other"])
def test_a_checkpoint_of_another_network_is_not_gone_on_from(
    run: Path, source: str, attic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(attic / source / "checkpoints" / "step-00000004.safetensors", run / "checkpoints" / "step-00000005.safetensors")
    before = everything(run)
    assert main(f"resume {run} --trainer.max_steps 6".split()) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "step-00000005.safetensors" in err
    assert {path for path in everything(run) if not path.endswith(".lock")} == {path for path in before if not path.endswith(".lock")}


def test_no_checkpoint_that_is_whole(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted((run / "checkpoints").iterdir()):
        cut(path, path.name)
    before = everything(run)
    assert main(f"resume {run} --trainer.max_steps 6".split()) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "step-00000004.safetensors is no whole checkpoint" in err and "start it again from step 0" in err
    assert everything(run) == before


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Let the system refuse to write more than ``size`` bytes to any file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    run: Path, attic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [path.name for path in (run / "checkpoints").iterdir()]
    with no_file_above(30_000):
        assert main(f"resume {run} --trainer.max_steps 8".split()) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("stpredict: ") and "step-00000006.safetensors" in last and "File too large" in last
    assert [path.name for path in (run / "checkpoints").iterdir()] == names
    ask(f"resume {run}")  # what it was to become is remembered
    ask(f"train tiny.yaml --run.folder {tmp_path}/whole --trainer.max_steps 8")
    resumed, whole = (safetensors.torch.load_file(tmp_path / name / "last.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


WRITTEN = [
    "evaluate run --data moving_digits --out {out}.json",
    *(f"evaluate run --data moving_digits --no-baselines --save-forecasts {{out}}.{suffix}" for suffix in ("npz", "h5")),
    *(f"forecast run film.npy --out {{out}}.{suffix}" for suffix in ("npz", "h5", "nc", "mp4", "png")),
    *(f"render run --data moving_digits --out {{out}}.{suffix}" for suffix in ("mp4", "webm", "gif", "webp", "png")),
]


@pytest.mark.parametrize("command", WRITTEN)
def test_what_cannot_be_written_whole_is_not_written(
    command: str, attic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(attic)
    name = command.rpartition("{out}")[2]
    (tmp_path / f"new{name}").write_text("old")
    capsys.readouterr()
    with no_file_above(500):
        assert main(command.format(out=tmp_path / "new").split()) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"new{name}: File too large" in err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_full_disk_ends_a_run_that_can_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file system of 160 KiB, on which the second checkpoint has no room."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "tiny.yaml").write_text(TINY)
    train = f"'{sys.executable}' -m stpredict train ../tiny.yaml --run.folder run --trainer.checkpoint_every 1"
    script = f"mount -t tmpfs -o size=160k tmpfs disk || exit 77; cd disk; {train}; code=$?; cp -r run ../left; exit $code"
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    if shutil.which("unshare") is None:
        pytest.skip("needs the program unshare to mount a small file system")
    environment = {**os.environ, "PYTHONPATH": str(Path(stpredict.__file__).parents[1])}
    done = subprocess.run(inside, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    if not (tmp_path / "left").exists():
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "step-00000002.safetensors" in last and "No space left on device" in last

    (whole,) = (tmp_path / "left" / "checkpoints").iterdir()
    assert Checkpoint.load(whole).step == 1
    assert not (tmp_path / "left" / "done").exists()
    ask(f"resume {tmp_path}/left")
    assert (tmp_path / "left" / "done").read_text() == "4\n"


def test_control_c_saves_says_how_to_go_on_and_exits_with_75(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    command = [sys.executable, "-m", "stpredict", "train", "tiny.yaml", "--run.folder", "run", "--trainer.max_steps", "1000000"]
    environment = {**os.environ, "PYTHONPATH": str(Path(stpredict.__file__).parents[1])}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log, deadline = tmp_path / "run" / "log.csv", time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and not (log.is_file() and log.read_text().count("\n") > 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert out == "run\n" and "Traceback" not in err
    assert err.splitlines()[-1].endswith("go on with: stpredict resume run")
    assert not (tmp_path / "run" / "done").exists()

    saved = Checkpoint.load(checkpoints(tmp_path / "run" / "checkpoints")[-1]).step
    assert saved >= 3
    ask(f"resume {tmp_path}/run --trainer.max_steps {saved + 2}")
    steps = [int(line.partition(",")[0]) for line in log.read_text().splitlines()[1:]]
    assert steps == list(range(1, saved + 3))
