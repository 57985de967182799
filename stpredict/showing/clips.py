"""Films of clips: observed and true, what each predictor forecasts and its error."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from stpredict.baselines import Baseline
from stpredict.data.clips import ClipSet
from stpredict.data.loader import collate
from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.metrics import Score, create_scores
from stpredict.metrics.running import RunningScore
from stpredict.render import Film, Panel
from stpredict.showing.maps import show_panels
from stpredict.showing.predicting import Contestants, PredictedClip, by_name, predict_clip


def render_clips(
    predictors: Contestants,
    data: ClipSet,
    clips: int | Sequence[int],
    out: str | Path,
    *,
    error: bool = True,
    score: str | None = None,
    scale: int | None = None,
    frames_per_second: float = 5.0,
    colours: str = "auto",
    theme: Literal["dark", "light"] | None = None,
    hold: float = 0.0,
) -> Film:
    """Write the film of one clip, or of several, a row for each: observed and true, then what each predictor forecasts and its error.

    Args:
        predictors: predictors, baselines or saved forecasts, or names and paths of these; a mapping says what they are called. Of an
            ensemble the mean is shown.
        data: the split.
        clips: which of its clips: one or several.
        out: ``.mp4``, ``.webm``, ``.gif``, ``.webp``, or ``.png``: a strip, of several clips a contact sheet.
        error: show forecast minus truth beside each forecast.
        score: the name of a score that is written under each frame of each forecast; it is of that frame alone.
        scale: enlargement of a pixel; None: as fits a screen.
        frames_per_second: of the film; fewer make it slow motion.
        colours: of values, as :func:`stpredict.save_film` has them; ``safe`` for the colour-blind.
        theme: ``dark`` or ``light``; None: a film dark, a strip light.
        hold: seconds for which the last observed frame stands before the forecast begins.

    Raises:
        UserError: there is no such clip or score, or a predictor does not fit the data.
    """
    clips = list(dict.fromkeys([clips] if isinstance(clips, int) else clips))
    if not clips:
        raise UserError("There is no clip to show: name at least one")
    named = by_name(predictors, data)
    judge = None if score is None else create_scores([score])[0]
    filled = [name for name, one in named.items() if isinstance(one, Baseline)]
    shown = [predict_clip(named, data, clip) for clip in clips]
    titles = [one.name for one in shown]
    if len(set(titles)) < len(titles):
        titles = [f"{title} ({clip})" for title, clip in zip(titles, clips, strict=True)]
    panels = [
        panel
        for one, title in zip(shown, titles, strict=True)
        for panel in _panels(one, data.spec, title if len(clips) > 1 else "", error, judge, filled)
    ]
    return show_panels(
        panels,
        data.spec,
        out,
        context=data.context,
        times=shown[0].times if len(clips) == 1 else None,
        grid=data.grid(clips[0]),
        lines=len(clips) == 1 or data.spec.grid is not None,
        scale=scale,
        frames_per_second=frames_per_second,
        colours=colours,
        theme=theme,
        hold=hold,
    )


def preview_clips(data: ClipSet, count: int, out: str | Path) -> Film:
    """Write a film of the first clips of a split, side by side."""
    clips = [data[index] for index in range(min(count, len(data)))]
    panels = [
        Panel(clip.name or f"clip {index}", collate([(index, clip)]).physical(data.packing, "cpu")[0].numpy())
        for index, clip in enumerate(clips)
    ]
    grid = data.grid(0)
    return show_panels(panels, data.spec, out, context=data.context, times=None, grid=grid, lines=data.spec.grid is not None)


def _panels(clip: PredictedClip, spec: FrameSpec, row: str, error: bool, judge: Score | None, filled: Collection[str]) -> list[Panel]:
    """Return the panels of a clip; where predictors of the names ``filled`` know nothing, they are judged as if they said the fill."""
    panels = [Panel("observed, then true", clip.truth, row=row)]
    for name, forecast in clip.forecasts.items():
        notes: tuple[str, ...] = ()
        if judge is not None:
            judged = np.where(np.isnan(forecast), np.float32(spec.fill), forecast) if name in filled else forecast
            notes = ("",) * clip.context + _scored(judge, judged, clip.truth[clip.context :], spec)
        panels.append(Panel(name, clip.film(name, observed=False), row=row, notes=notes))
        if error:
            title = f"{name} - true" if len(clip.forecasts) > 1 else "error"
            panels.append(Panel(title, clip.error(name), "error", row=row))
    return panels


def _scored(judge: Score, forecast: NDArray[np.float32], truth: NDArray[np.float32], spec: FrameSpec) -> tuple[str, ...]:
    """Return the score of each frame ``(T, C, H, W)`` in words."""
    running = RunningScore(len(truth), judge)
    running.add(*judge(torch.from_numpy(forecast)[None], torch.from_numpy(truth)[None], spec))
    return tuple(f"{judge.name} {value:.4g}" if np.isfinite(value) else f"{judge.name} -" for value in running.per_lead())
