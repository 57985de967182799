"""The films of a page: each panel of a clip by itself, with what a page needs to know to set them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from stpredict.data.clips import ClipSet
from stpredict.predictor import free_name
from stpredict.render import Panel, save_bare_films
from stpredict.showing.maps import caption, picture_settings, viewable
from stpredict.showing.predicting import Contestants, by_name, predict_clip

Kind = Literal["truth", "forecast", "error"]
_TRUTH: tuple[Kind, str | None] = ("truth", None)


@dataclass(frozen=True)
class PanelFilm:
    """The film of one panel.

    Attributes:
        label: what stands above it; it may be any text, and no two films of a clip have the same.
        kind: ``truth``, ``forecast``, or ``error``: forecast minus truth.
        predictor: whose it is; None for the truth.
        file: its name in the folder.
    """

    label: str
    kind: Kind
    predictor: str | None
    file: str


@dataclass(frozen=True)
class ClipFilms:
    """The films of one clip, which are equally long and large.

    Attributes:
        clip: which clip of its split.
        name: what it is called: by its film, and its time where that is known.
        films: the truth, then the forecast and the error of each predictor.
        frames: of each film; frame k is shown during ``[k, k + 1) / frames_per_second`` seconds, and is a key frame.
        context: how many of the frames were observed; in forecasts these are shown as they were, in errors there is no frame.
        width: in pixels.
        height: in pixels.
        frames_per_second: speed.
        captions: a line for each frame: observed or lead, and its time.
        legends: heading and name of a PNG file in the folder, for each colour map.
    """

    clip: int
    name: str
    films: tuple[PanelFilm, ...]
    frames: int
    context: int
    width: int
    height: int
    frames_per_second: float
    captions: tuple[str, ...]
    legends: tuple[tuple[str, str], ...]


def clip_films(
    predictors: Contestants,
    data: ClipSet,
    clip: int,
    folder: str | Path,
    stem: str,
    *,
    error: bool = True,
    colours: str = "auto",
    frames_per_second: float = 5.0,
    scale: int | None = None,
) -> ClipFilms:
    """Write the bare films of one clip for a page: truth, then what each predictor forecasts and its error.

    All share their colours, and the errors their range. A predictor is found by its number in the names of the files, never by its name.

    Args:
        predictors: predictors, baselines or saved forecasts, or names and paths of these; a mapping says what they are called.
        data: the split.
        clip: which of its clips.
        folder: where to write; it must exist.
        stem: how the names of the files begin.
        error: write films of forecast minus truth too.
        colours: of values, as :func:`stpredict.save_film` has them.
        frames_per_second: of the films.
        scale: enlargement of a pixel; None: to about 256 pixels a side.

    Raises:
        UserError: there is no such clip, or a predictor does not fit the data.
        OSError: a file could not be written whole.
    """
    predicted = predict_clip(by_name(predictors, data), data, clip)
    panels, whose = [Panel("true", predicted.truth)], [_TRUTH]
    for name in predicted.forecasts:
        panels.append(Panel(name, predicted.film(name, observed=True)))
        whose.append(("forecast", name))
        if error:
            panels.append(Panel(f"{name} - true", predicted.error(name), "error"))
            whose.append(("error", name))
    panels = [viewable(panel) for panel in panels]
    settings = picture_settings(data.spec, data.grid(clip))
    written = save_bare_films(panels, Path(folder), stem, colours=colours, scale=scale, frames_per_second=frames_per_second, **settings)
    count = len(predicted.truth)
    return ClipFilms(
        clip=clip,
        name=predicted.name,
        films=tuple(
            PanelFilm(label, kind, predictor, file.name)
            for label, (kind, predictor), file in zip(_labels(panels), whose, written.files, strict=True)
        ),
        frames=count,
        context=data.context,
        width=written.width,
        height=written.height,
        frames_per_second=frames_per_second,
        captions=tuple(_caption(step, data, None if predicted.times is None else predicted.times[step]) for step in range(count)),
        legends=tuple((heading, file.name) for heading, file in written.legends),
    )


def _labels(panels: Sequence[Panel]) -> list[str]:
    """Return the titles, each once: a predictor may be called ``true``."""
    labels: list[str] = []
    for panel in panels:
        labels.append(free_name(panel.title, labels))
    return labels


def _caption(step: int, data: ClipSet, time: np.datetime64 | None) -> str:
    words = caption(step - data.context + 1, data.spec.time_step, time)
    return words if step >= data.context else "  ".join(filter(None, [f"observed {step + 1} of {data.context}", words]))
