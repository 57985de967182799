"""How fast forecasts are scored: every score by itself, and the default ones together, as the evaluation takes them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from benchmarks.timing import Row, median_seconds
from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.metrics import FURTHER_SCORES, SCORES, Score, create_scores, default_scores
from stpredict.protocols import PROTOCOLS

MEMBERS = 10
_THRESHOLDS = (0.5, 2.0, 5.0, 10.0, 30.0)

# The evaluation scores a few clips at a time.
_PIXELS_AT_ONCE = 1 << 17


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
    clips = max(1, min(options.batch_size, _PIXELS_AT_ONCE // (options.horizon * spec.height * spec.width)))
    random = torch.Generator().manual_seed(0)
    truth = torch.rand(clips, options.horizon, *spec.shape, generator=random) * 40.0 * torch.rand(1, 1, *spec.shape, generator=random)
    forecast = 0.5 * truth + 0.5 * torch.rand(truth.shape, generator=random)
    members = torch.stack([forecast] * MEMBERS, 1) + torch.rand(clips, MEMBERS, *truth.shape[1:], generator=random)
    rules = PROTOCOLS[protocol]

    def work() -> None:
        with torch.inference_mode():
            treated = {}
            for score in scores:
                ensemble = bool(getattr(score, "takes_members", False))
                kind = rules.treatment(score.name), ensemble
                if kind not in treated:
                    treated[kind] = rules.treat(score.name, members if ensemble else forecast, truth, spec)
                score(*treated[kind], spec)

    seconds, frames = median_seconds(work, options.repeats), clips * options.horizon
    return {"name": name, "size": spec.height, "frames": frames, "seconds": seconds, "frames_per_second": frames / seconds}
