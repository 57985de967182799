"""Clips: how fast they are read or made, and whether a training step waits for them."""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import cv2
import torch

import stpredict
from benchmarks.memory import resident_mib
from benchmarks.timing import Row, median_seconds
from stpredict.data.clips import ClipSet
from stpredict.files import shipped_names
from stpredict.training import load_settings, train


def data(options: argparse.Namespace) -> list[Row]:
    """Reading or making clips, on one core.

    The process grows by ``memory_growth_mib`` from the first tenth of an epoch to its end.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sets = [stpredict.load_data("moving_digits")]
    sets += [stpredict.load_data(card, root) for card, root in _roots(options).items() if root is not None]
    return [_read(clips, options.clips or len(clips), options.repeats) for clips in sets]


def _read(clips: ClipSet, count: int, repeats: int) -> Row:
    count = count if clips.endless else min(count, len(clips))
    tenth = range(max(1, count // 10))
    seconds = median_seconds(lambda: [clips[index] for index in tenth], repeats)
    before = resident_mib()
    for index in range(count):
        clips[index]
    frames = clips.context + clips.horizon
    return {
        "name": clips.card,
        "frame": " x ".join(map(str, clips.spec.shape)),
        "clips": len(tenth),
        "seconds": seconds,
        "clips_per_second": len(tenth) / seconds,
        "frames_per_second": len(tenth) * frames / seconds,
        "epoch_clips": count,
        "memory_growth_mib": None if before is None else round((resident_mib() or 0.0) - before, 1),
    }


def loader(options: argparse.Namespace) -> list[Row]:
    """The share of a training step that is spent waiting for data, for each shipped config whose data are there.

    Real runs, of a few steps; the first half, in which worker processes start, does not count.
    """
    roots = {card: root for card, root in _roots(options).items() if root is not None} | {"moving_digits": None}
    cards = {name: load_settings(name).data.card for name in options.config or shipped_names("configs")}
    there = {name: roots[card] for name, card in cards.items() if card in roots}
    return [_train_briefly(name, root, max(4, options.steps), options.threads) for name, root in there.items()]


def _roots(options: argparse.Namespace) -> dict[str, Path | None]:
    return {"moving_mnist": options.mnist, "knmi": options.knmi, "video": options.video}


def _train_briefly(name: str, root: Path | None, steps: int, threads: int | None) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        wanted = {"max_steps": steps, "checkpoint_every": steps, "validate_every": 0, "log_every": 1, "threads": threads}
        overrides = [f"--trainer.{key}={value}" for key, value in wanted.items() if value is not None]
        overrides += [f"--run.folder={folder}/run", *([] if root is None else [f"--data.root={root}"])]
        settings = load_settings(name, overrides)
        run = train(settings, progress=False)
        with (run.folder / "log.csv").open(encoding="utf-8") as file:
            log = [{key: float(row[key]) for key in ("seconds", "waiting")} for row in csv.DictReader(file)]
    later = range(steps // 2, steps)
    lasted = [log[number]["seconds"] - log[number - 1]["seconds"] for number in later]
    waited = sum(log[number]["waiting"] * took for number, took in zip(later, lasted, strict=True))
    return {
        "name": name,
        "batch_size": settings.data.batch_size,
        "workers": settings.data.workers,
        "seconds": sum(lasted) / len(lasted),
        "waiting_seconds": waited / len(lasted),
        "waiting_share": waited / sum(lasted),
    }
