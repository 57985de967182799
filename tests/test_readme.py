"""What the README shows is run, in its order, in one folder: with tiny stand-ins for data, and a few steps for many."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch

from stpredict.cli.main import main
from stpredict.data import load_data
from stpredict.data.card import read_card
from stpredict.networks import create_network

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"

SHORT = "--trainer.max_steps 2 --trainer.validation_clips 2 --data.batch_size 2 --data.workers 0"
TINY = f"{SHORT} --network.hidden [4,4]"
FEW_CLIPS = "--data.settings.validation_clips 2 --data.settings.test_clips 12"

RUN = {
    "stpredict render moving-digits-predrnn-s --data moving_digits --out first.mp4": "",
    "stpredict train moving_digits/two_digits": f"{SHORT} {FEW_CLIPS}",
    "stpredict evaluate runs/two_digits-1 moving-digits-predrnn-s --data moving_digits --out two.json": "",
    "stpredict render runs/two_digits-1 moving-digits-predrnn-s --data moving_digits --out two.mp4": "",
    "stpredict report runs/two_digits-1 two.json --out two": "--clips 1",
    "stpredict info --shipped": "",
    "stpredict info moving-digits-predrnn-s": "",
    "stpredict train demo": f"{TINY} {FEW_CLIPS} --data.workers 1",
    "stpredict evaluate runs/demo-1 --data moving_digits --out scores.json": "",
    "stpredict render runs/demo-1 --data moving_digits --clip 3 --out film.mp4": "",
    "stpredict report runs/demo-1 --out page": "--clips 1",
    "stpredict train moving_mnist/predrnn_small --data.root ~/mnist": f"{TINY} {FEW_CLIPS}",
    "stpredict evaluate runs/predrnn_small-1 --data moving_mnist --root ~/mnist --split generated --out predrnn.json": "",
    "stpredict render runs/predrnn_small-1 --data moving_mnist --root ~/mnist --split generated --clip 3 --out predrnn.mp4": "",
    "stpredict data show knmi": "",
    "stpredict data check knmi --root ~/radar": "",
    "stpredict train knmi/predrnn --data.root ~/radar": f"{TINY} --data.crop [0,0,32,28] --data.resize [16,14]",
    "stpredict evaluate runs/predrnn-1 --data knmi --root ~/radar --out rain.json": "",
    "stpredict render runs/predrnn-1 --data knmi --root ~/radar --out rain.mp4": "",
    "stpredict forecast runs/predrnn-1 ~/radar --out next-half-hour.nc": "",
    "python datasets/generators/moving_rain.py ~/rain": "--events 12 --frames 24 --size 32",
    "stpredict train moving_rain/predrnn --data.root ~/rain --run.folder runs/rain": TINY,
    "stpredict evaluate runs/rain --data moving_rain --root ~/rain --score csi fss mae --skill extrapolation --resample films": "",
    "stpredict render runs/rain extrapolation --data moving_rain --root ~/rain --out moving-rain.mp4": "",
    "stpredict train video --data.root holiday.mp4": f"{TINY} --data.resize [16,16]",
    "stpredict render runs/video-1 --data video --root holiday.mp4 --out predicted.mp4": "",
    "stpredict forecast runs/video-1 holiday.mp4 --horizon 20 --out next.mp4": "",
    "stpredict train mine.yaml": f"{SHORT} {FEW_CLIPS} --data.settings.size 32",
    "stpredict evaluate runs/mine-1 runs/demo-1 --data moving_digits": "",
    "stpredict train moving_digits/predrnnpp": f"{TINY} {FEW_CLIPS}",
    "stpredict info runs/predrnnpp-1": "",
    "stpredict train moving_rain/probabilistic --data.root ~/rain --run.folder runs/members": f"{TINY} --loss.members 2",
    "stpredict evaluate runs/members --data moving_rain --root ~/rain --members 10 --score crps rmse spread rank_histogram calibration "
    "--out members.json": "--limit 2",
    "stpredict forecast runs/members ~/rain --members 10 --exceed 1 5 --out members.nc": "",
    "stpredict import model.ckpt-80000 --patch-size 4 --context 10 --out mine.safetensors": "",
    "stpredict info mine.safetensors": "",
    "stpredict import --list": "",
    "stpredict train moving_mnist/convlstm_small --data.root ~/mnist": f"{TINY} {FEW_CLIPS}",
    "stpredict evaluate runs/predrnn_small-1 runs/convlstm_small-1 --data moving_mnist --root ~/mnist --out both.json --out both.tex": "",
    "stpredict render runs/predrnn_small-1 runs/convlstm_small-1 --data moving_mnist --root ~/mnist --clip 7 --out both.gif": "",
    "stpredict evaluate runs/convlstm_small-1 --data moving_mnist --root ~/mnist --limit 100 --save-forecasts convlstm.h5": "--limit 8",
    "stpredict render convlstm.h5 persistence --data moving_mnist --root ~/mnist --clip 7 --no-error --out strip.png": "",
    "stpredict evaluate convlstm.h5 rival/saved --data moving_mnist --root ~/mnist --protocol openstl --split test": "",
    "stpredict render runs/predrnn_small-1 --data moving_mnist --root ~/mnist --worst 3 --by ssim --score ssim --out bad.webm": "--limit 4",
    "stpredict render runs/predrnn_small-1 --data moving_mnist --root ~/mnist --clip 3 7 11 --theme light --out sheet.png": "",
    "stpredict inside runs/predrnnpp-1 --data moving_digits --clip 3 --show states --out states.mp4": "",
    "stpredict inside runs/predrnnpp-1 --data moving_digits --clip 3 --show gates --out gates.mp4 --curves gates.png --json gates.json": "",
    "stpredict report runs/predrnn_small-1 runs/convlstm_small-1 --split generated --limit 100 --out comparison": "--clips 1",
    "stpredict forecast runs/predrnn-1 ~/radar --out next.nc --institution 'My weather service'": "",
    "stpredict forecast runs/predrnn-1 ~/radar --out next.tif": "",
    "stpredict forecast persistence ~/radar --data knmi --horizon 12 --out next.odim.h5": "",
    "stpredict forecast runs/predrnn-1 ~/radar --fill-gaps linear --out filled.nc": "",
    "stpredict forecast runs/predrnn-1 ~/radar --also persistence --members 10 --perturb gain=0.2 --exceed 1 5 --out ensemble.nc": "",
    "stpredict forecast runs/predrnn-1 ~/radar --watch --out nowcasts --institution 'My weather service'": "--clock data --cycles 2",
    "stpredict forecast runs/predrnn-1 ~/radar --watch --clock data --out replayed": "--cycles 2",
    "stpredict resume runs/demo-1": "--trainer.max_steps 3",
    "stpredict info runs/demo-1": "",
    "torchrun --standalone --nproc-per-node 2 -m stpredict train demo": TINY,
    "stpredict train longer.yaml --data.root ~/mnist --seed 1": f"{SHORT} --network.hidden [4,4,4] {FEW_CLIPS}",
    "stpredict train moving_mnist/predrnn_small --data.root ~/mnist --dry-run": f"{TINY} {FEW_CLIPS}",
    "stpredict runs --sort best": "",
    "stpredict study convlstm-output --root ~/mnist": f"{TINY} --seeds 0 --score.clips 2 {FEW_CLIPS}",
    "stpredict report studies/convlstm-output --out study": "",
    "stpredict evaluate runs/demo-1 --data moving_digits --split test --kernels reference": "",
    "stpredict gradients runs/predrnnpp-1 runs/demo-1 --data moving_digits --layers --teacher-forced --out gradients.png": "--clips 2",
    "stpredict export runs/demo-1 --out demo.pt2": "--horizon 1",
    "stpredict export runs/demo-1 --out demo.onnx": "--horizon 1",
    "stpredict export runs/demo-1 --what step --out step.pt2": "",
    "stpredict data check raw.yaml --root raw": "",
    "stpredict train mine.yaml --data.card raw.yaml --data.root raw --data.context 5 --data.horizon 5 --loss.name more:Charbonnier": SHORT,
    "stpredict evaluate runs/mine-2 --data raw.yaml --root raw --score mse more:Bias": "",
    "stpredict data list": "",
    "stpredict data preview moving_digits --clips 4 --out preview.gif": "",
    "stpredict data prepare knmi --root ~/radar --out radar.h5": "",
    "stpredict train knmi/predrnn --data.root radar.h5": f"{TINY} --data.crop [0,0,32,28] --data.resize [16,14]",
}
"""Each command with what is added to it here. A later word wins over an earlier one, so these make it small."""

NOT_RUN = {
    "make demo": "it makes an environment and trains for minutes: run whole before a change is taken",
    "pip install .": "tests/test_packaging.py installs from a wheel and editable",
    "stpredict train moving_mnist/predrnn --data.root ~/mnist --precision bf16": "it takes a GPU for hours; tests/test_configs.py makes it",
    "stpredict train moving_mnist/predrnn --data.root ~/mnist --precision bf16 --trainer.compile true": (
        "it takes a GPU for hours; tests/training/test_compiling.py compiles a smaller one"
    ),
    "stpredict import mmnist_predrnn_one_ep200 --out predrnn.safetensors": "it needs a network: tests/cli/test_importing.py has a server",
    "stpredict import --verify predrnn.safetensors --root ~/mnist": "it needs those weights: tests/test_verification.py has others",
    "stpredict hub push runs/demo-1 me/demo --licence apache-2.0": "it needs an account: tests/test_hub.py has a server",
    "stpredict hub pull me/demo --out pulled.safetensors": "it needs a network: tests/test_hub.py has a server",
    "stpredict train moving_mnist/predrnn --data.root ~/mnist --trainer.devices 4": "tests/training/test_launching.py",
    "stpredict train moving_mnist/predrnn --data.root ~/mnist --trainer.devices 4 --max-restarts 3": "tests/training/test_launching.py",
    "torchrun --nnodes 2 --nproc-per-node 4 --max-restarts 3 --rdzv-backend c10d --rdzv-endpoint first-machine:29400 --rdzv-id demo "
    "-m stpredict train moving_mnist/predrnn --data.root ~/mnist --run.folder runs/two-machines": "tests/training/test_launching.py",
    "stpredict doctor": "it tries the machine for some seconds: tests/test_doctor.py",
    "python tools/benchmark.py step --out step.json": "tests/test_benchmark.py",
}
"""Each command that is not run here, with the reason."""

REPLACED = {"--trainer.max_steps=200": "--trainer.max_steps=2", "limit=100": "limit=4"}
"""What is made smaller in Python."""

RUNS = [
    "two_digits-1",
    "demo-1",
    "demo-2",
    "short",
    "predrnn_small-1",
    "convlstm_small-1",
    "predrnn-1",
    "predrnn-2",
    "predrnnpp-1",
    "rain",
    "members",
    "video-1",
    "mine-1",
    "mine-2",
    "longer-1",
]
"""The runs that are left, each ended."""


class Block(NamedTuple):
    language: str
    text: str
    line: int


def blocks(path: Path = README) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    fences = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(fence[1], fence[2], text[: fence.start()].count("\n") + 2) for fence in fences]


def commands(block: Block) -> list[str]:
    joined = block.text.replace("\\\n", " ")
    return [" ".join(line.split()) for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def test_every_block_is_of_a_kind_that_is_run() -> None:
    assert README.read_text(encoding="utf-8").count("```") == 2 * len(blocks())
    assert {block.language for block in blocks()} == {"sh", "python", "yaml"}
    unnamed = [block.line for block in blocks() if block.language == "yaml" and not file_name(block)]
    assert unnamed == [], "a YAML block says in its first line which file it is"


def test_every_command_is_known_here() -> None:
    shown = [command for block in blocks() if block.language == "sh" for command in commands(block)]
    assert not set(RUN) & set(NOT_RUN)
    assert sorted(shown) == sorted([*RUN, *NOT_RUN])


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_card_that_explains_cards_is_one(tmp_path: Path) -> None:
    explained, joined = [block.text for block in blocks(ROOT / "datasets" / "README.md") if block.language == "yaml"]
    (tmp_path / "joined.yaml").write_text(joined)
    assert [source.card for source in read_card(tmp_path / "joined.yaml").sources] == ["meteoswiss", "knmi"]
    (tmp_path / "harbour.yaml").write_text(explained)
    card = read_card(tmp_path / "harbour.yaml")
    assert card.name == "harbour" and card.splits.names == ["train", "validation", "test"]
    others = re.findall(r"^  # (\{by: .*\})", explained, re.MULTILINE)
    assert len(others) == 4, "the other kinds of splits stand in comments"
    for other in others:
        (tmp_path / "other.yaml").write_text(re.sub(r"splits:.*", f"splits: {other}", explained, flags=re.DOTALL))
        assert read_card(tmp_path / "other.yaml").splits.names[0] == "train"


@pytest.mark.first
def test_the_readme_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, films: ModuleType, knmi_files: ModuleType) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(sys, "path", list(sys.path))
    make_stand_ins(tmp_path, films, knmi_files)
    waiting = dict(REPLACED)
    names: dict[str, Any] = {"__name__": "readme"}
    try:
        for block in blocks():
            if block.language == "sh":
                for command in commands(block):
                    if command in RUN:
                        run(f"{command} {RUN[command]}")
            elif file := file_name(block):
                (tmp_path / file).write_text(block.text)
            else:
                text = block.text
                for old in [old for old in waiting if old in text]:
                    text = text.replace(old, waiting.pop(old))
                exec(compile("\n" * (block.line - 1) + text, str(README), "exec"), names)
    finally:
        for module in ("mine", "more"):
            sys.modules.pop(module, None)
    assert waiting == {}, "the README no longer holds what is to be replaced"
    check_what_is_left(tmp_path, names)


def file_name(block: Block) -> str | None:
    """Return the file that a block is, by its first line ``# mine.py``, or None."""
    match = re.match(r"# (\w+\.(?:py|yaml))\b", block.text)
    return match[1] if match else None


def run(command: str) -> None:
    words = [os.path.expanduser(word) for word in shlex.split(command)]
    if words[0] == "stpredict":
        assert main(words[1:]) == 0, command
        return
    start = {"torchrun": [sys.executable, "-m", "torch.distributed.run"], "python": [sys.executable, "-P"]}[words[0]]
    rest = [str(ROOT / word) if word.startswith("datasets/") else word for word in words[1:]]
    done = subprocess.run([*start, *rest], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def check_what_is_left(folder: Path, names: dict[str, Any]) -> None:
    written = [file for command in RUN for file in re.findall(r"--(?:out|save-forecasts) (\S+)", command)]
    assert len(written) > 10
    assert [file for file in [*written, "film.gif"] if not (folder / file).stat().st_size] == []
    assert {path.name for path in (folder / "runs").iterdir()} == set(RUNS)
    for name in RUNS:
        for file in ("config.yaml", "log.csv", "pictures/curves.png", "best.safetensors", "last.safetensors", "checkpoints", "done"):
            assert (folder / "runs" / name / file).exists(), f"{name} lacks {file}"
    scores = json.loads((folder / "both.json").read_text())["scores"]
    trained, baselines = ["predrnn_small-1", "convlstm_small-1"], ["persistence", "extrapolation", "context-mean", "training-mean"]
    assert list(scores) == trained + baselines
    assert all(math.isfinite(by_score["mse"]["mean"]) for by_score in scores.values())
    assert len(scores["persistence"]["mse"]["per_lead"]) == 10
    assert (folder / "runs/demo-1/done").read_text() == "3\n", "resumed to a third step"
    assert "mine:Change" in (folder / "runs/mine-1/config.yaml").read_text()
    assert "more:Charbonnier" in (folder / "runs/mine-2/config.yaml").read_text()
    np.testing.assert_allclose(names["same"], names["future"], atol=1e-5)
    assert names["loss"].item() > 0 and all(weight.grad is not None for weight in names["network"].parameters())


def make_stand_ins(folder: Path, films: ModuleType, knmi_files: ModuleType) -> None:
    """Make what the README supposes that a reader has: ~/mnist, ~/radar, rival/saved, holiday.mp4 and a folder of raw films."""
    (folder / "mnist").mkdir()
    digits = np.zeros((10, 28, 28), np.uint8)
    for number, digit in enumerate(digits):
        cv2.putText(digit, str(number), (4, 24), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 2)
    for name, count in {"train": 60000, "t10k": 10000}.items():
        images = np.tile(digits, (count // 10, 1, 1))
        (folder / "mnist" / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, count, 28, 28) + images.tobytes())
    knmi_files.write_sample(folder / "radar", frames=92, height=32, width=28)
    films.write_video(folder / "holiday.mp4", films.wandering_square(200, 32, 48, colour=True))
    network = create_network("predrnn", channels=1, hidden=[4, 4], kernel_size=3, patch_size=4).state_dict()
    theirs = {
        re.sub(r"cells\.(\d)\.(\w+)\.", r"cell_list.\1.conv_\2.", name).replace("conv_out", "conv_last"): network[name] for name in network
    }
    theirs["conv_last.weight"] = theirs.pop("readout.weight")
    torch.save({"net_param": theirs}, folder / "model.ckpt-80000")
    rival = folder / "rival" / "saved"
    rival.mkdir(parents=True)
    data = load_data("moving_mnist", folder / "mnist", "test")
    clips = np.stack([data[number].frames * np.float32(data.packing.scale) for number in range(8)])
    for file, part in {"inputs": clips[:, :10], "trues": clips[:, 10:], "preds": 0.5 * clips[:, 10:]}.items():
        np.save(rival / f"{file}.npy", part.astype(np.float32))
    (folder / "raw").mkdir()
    for seed in range(5):
        films.wandering_square(30, 32, 32, seed=seed).tofile(folder / "raw" / f"{seed}.raw")
