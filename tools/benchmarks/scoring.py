"""How fast forecasts are scored, every score by itself and the default ones together: by the evaluation's own sums, intervals included."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from benchmarks.timing import Row, median_seconds
from stpredict.errors import UserError
from stpredict.evaluation.scoring import CLIPS_AT_ONCE, Judge, Tally
from stpredict.frames import FrameSpec
from stpredict.metrics import FURTHER_SCORES, SCORES, Score, create_scores, default_scores
from stpredict.metrics.bootstrap import draw_units
from stpredict.protocols import PROTOCOLS

MEMBERS = 10
_THRESHOLDS = (0.5, 2.0, 5.0, 10.0, 30.0)

# Of the truths of a batch, so that ten members of large frames fit into memory.
_MOST_PIXELS = 1 << 21


def evaluation(options: argparse.Namespace) -> list[Row]:
    """Default scores, protocols and every score by itself, at two sizes; a frame is one of the truth, however many members there are."""
    rows = []
    kept, missing = _available([*SCORES, *FURTHER_SCORES])
    for size in dict.fromkeys((options.size, options.radar_size)):
        spec = FrameSpec(1, size, size, units="mm/h", z_r=(200.0, 1.6), thresholds=_THRESHOLDS)
        plain = FrameSpec(1, size, size)
        rows.append(_row("default", create_scores(default_scores(plain)), plain, options))
        rows.append(_row("default, with thresholds", create_scores(default_scores(spec)), spec, options))
        for name, protocol in PROTOCOLS.items():
            if protocol.scores is not None:
                rows.append(_row(f"protocol {name}", create_scores(protocol.scores), spec, options, name))
        rows += [_row(name, create_scores([name]), spec, options) for name in kept]
    if missing:
        print(f"not measured, since their weights are not here: {', '.join(missing)}", file=sys.stderr)
    return rows


def _available(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the scores that can be had, and those whose files are not here."""
    kept, missing = [], []
    for name in names:
        try:
            create_scores([name])
        except UserError:
            missing.append(name)
        else:
            kept.append(name)
    return kept, missing


def _row(name: str, scores: Sequence[Score], spec: FrameSpec, options: argparse.Namespace, protocol: str = "per-pixel") -> Row:
    clips = max(1, min(options.batch_size, _MOST_PIXELS // (options.horizon * spec.height * spec.width)))
    random = torch.Generator().manual_seed(0)
    truth = torch.rand(clips, options.horizon, *spec.shape, generator=random) * 40.0 * torch.rand(1, 1, *spec.shape, generator=random)
    forecast = 0.5 * truth + 0.5 * torch.rand(truth.shape, generator=random)
    if any(getattr(score, "takes_members", False) for score in scores):
        forecast = torch.stack([forecast] * MEMBERS, 1) + torch.rand(clips, MEMBERS, *truth.shape[1:], generator=random)
    judge, tally = Judge(scores, PROTOCOLS[protocol], spec, spec), Tally.of(scores, options.horizon)
    batches = -(-CLIPS_AT_ONCE // clips)  # after as many, none waits to be added to the sums

    def work() -> None:
        with torch.inference_mode():
            for _ in range(batches):
                tally.add(judge, forecast, truth, draw_units(range(clips)))
            tally.settle()

    seconds, frames = median_seconds(work, options.repeats) / batches, clips * options.horizon
    return {"name": name, "size": spec.height, "frames": frames, "seconds": seconds, "frames_per_second": frames / seconds}
