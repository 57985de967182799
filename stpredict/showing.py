"""What people look at: predicted films beside the real one, previews of data, and what a predictor is in words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stpredict.baselines import TrainingMean
from stpredict.costs import measure_costs
from stpredict.data.clips import ClipSet
from stpredict.data.loader import collate
from stpredict.data.readers.projections import find_pyproj, geographic
from stpredict.errors import UserError
from stpredict.forecasts import ForecastFile, clip_digests
from stpredict.frames import Batch, FrameSpec, Grid
from stpredict.predictor import Predictor, load_predictor
from stpredict.render import Geography, Panel, save_film
from stpredict.render.geography import coast_lines, lines_in_pixels

_SEVIR_THRESHOLDS = (16.0, 74.0, 133.0, 160.0, 181.0, 219.0)
"""At which forecasts of SEVIR's pixel values, which have no units, are judged: they tell what these values are."""


def render_clip(
    predictors: Sequence[Any],
    data: ClipSet,
    clip: int,
    out: str | Path,
    *,
    error: bool = True,
    scale: int | None = None,
    frames_per_second: float = 5.0,
    colours: str = "auto",
) -> Path:
    """Write the film of one clip: observed and true, then what each predictor forecasts and its error.

    Args:
        predictors: predictors, baselines or forecast files.
        data: the split.
        clip: which of its clips.
        out: ``.mp4``, ``.webm``, ``.gif``, ``.webp`` or ``.png``.
        error: show forecast minus truth beside each forecast.
        scale: enlargement of a pixel; None: as fits a screen.
        frames_per_second: of the film.
        colours: of values, as :func:`stpredict.save_film` has them; ``safe`` for the colour-blind.

    Raises:
        UserError: there is no such clip, or a predictor does not fit the data.
    """
    if not 0 <= clip < len(data) and not data.endless:
        raise UserError(f"The split '{data.split}' of '{data.card}' has clips 0 to {len(data) - 1}, not {clip}")
    batch = collate([(clip, data[clip])])
    truth = batch.physical(data.packing, "cpu")
    panels = [Panel("observed, then true", truth[0].numpy())]
    for predictor in predictors:
        future = _forecast(predictor, data, batch, truth[:, : data.context])
        film = torch.cat([torch.full_like(truth[:, : data.context], torch.nan), future], dim=1)[0]
        panels.append(Panel(predictor.name, film.numpy()))
        if error:
            panels.append(Panel(f"{predictor.name} - true" if len(predictors) > 1 else "error", (film - truth[0]).numpy(), "error"))
    return show_panels(
        panels,
        data.spec,
        out,
        context=data.context,
        times=data[clip].times,
        scale=scale,
        frames_per_second=frames_per_second,
        colours=colours,
        grid=data.grid(clip),
    )


def _forecast(predictor: Any, data: ClipSet, batch: Batch, observed: Tensor) -> Tensor:
    """Return the forecast ``(1, horizon, C, H, W)`` of a batch of one clip, whose ``observed`` frames are physical."""
    if isinstance(predictor, ForecastFile):
        predictor.check(data, 0)
        predictor.check_truth(batch.indices, clip_digests(batch))
        return predictor.forecast_clips(batch.indices, data.horizon)
    if isinstance(predictor, TrainingMean) and predictor.mean_frame is None and data.training_split is not None:
        predictor = TrainingMean.of(data.training_split())
    forecast: Tensor = predictor.forecast(observed, data.horizon, known=batch.known)
    return forecast


def preview_clips(data: ClipSet, count: int, out: str | Path) -> Path:
    """Write a film of the first clips of a split, side by side."""
    clips = [data[index] for index in range(min(count, len(data)))]
    panels = [
        Panel(clip.name or f"clip {index}", collate([(index, clip)]).physical(data.packing, "cpu")[0].numpy())
        for index, clip in enumerate(clips)
    ]
    grid = data.grid(0)
    return show_panels(panels, data.spec, out, context=data.context, times=None, grid=grid, lines=data.spec.grid is not None)


def show_panels(
    panels: Sequence[Panel],
    spec: FrameSpec,
    out: str | Path,
    *,
    context: int,
    times: NDArray[np.datetime64] | None,
    scale: int | None = None,
    frames_per_second: float = 5.0,
    colours: str = "auto",
    grid: Grid | None = None,
    lines: bool = True,
) -> Path:
    """Write panels as their frame spec says: units, colours, captions with lead and time; maps north up, with scale and coasts.

    ``grid`` stands in for the spec's where that has none; without ``lines`` no coasts are drawn, since they are not everywhere the same.
    """
    grid = spec.grid or grid
    geography = find_geography(grid, spec.height, spec.width) if grid else None
    transform, length = spec.transform, len(panels[0].frames)
    units = "VIL, pixel value" if (spec.units, spec.thresholds) == ("1", _SEVIR_THRESHOLDS) else spec.units
    return save_film(
        panels,
        out,
        units=units,
        value_range=(transform.low, transform.high),
        context=context,
        captions=[caption(step - context + 1, spec.time_step, None if times is None else times[step]) for step in range(length)],
        colours=colours,
        scale=scale,
        frames_per_second=frames_per_second,
        row_origin=grid.row_origin if grid else "north",
        geography=geography if geography is None or lines else Geography(geography.pixel_km),
    )


def find_geography(grid: Grid, height: int, width: int) -> Geography:
    """Return how long a kilometre is in the middle of a grid of pixels, on the ground, and where its coasts and borders run.

    Where pyproj is not installed, or the projection is none that it may use, a metre of the projection counts as one on the ground, and
    there are no lines.
    """
    left, bottom, right, top = grid.corners
    across, middle, level = (right - left) / width, (left + right) / 2, (bottom + top) / 2
    pyproj = find_pyproj()
    try:
        ends = geographic(pyproj, grid.projection, [(middle - across / 2, level), (middle + across / 2, level)]) if pyproj else []
    except UserError:
        ends = []
    if pyproj is None or not ends:
        degrees = max(abs(edge) for edge in grid.corners) <= 360
        return Geography(None if degrees else across / 1000)
    *_, metres = pyproj.Geod(ellps="WGS84").inv(*ends[0], *ends[1])
    lines = lines_in_pixels(coast_lines(), grid, height, width, pyproj.Proj(grid.projection))
    return Geography(metres / 1000 if metres > 0 else None, lines)


def caption(lead: int, time_step: float | None, time: np.datetime64 | None) -> str:
    """Say which frame this is: its lead, with the lead time where frames have a clock, and its time where it has one.

    An observed frame has no lead, and the film says by itself that it is observed.
    """
    words = [f"lead {lead}"] if lead >= 1 else []
    if time_step is not None and lead >= 1:
        words.append(f"+{_span(lead * time_step)}")
    if time is not None:
        words.append(str(time.astype("datetime64[m]")).replace("T", " ") + " UTC")
    return "  ".join(words)


def _span(seconds: float) -> str:
    return f"{round(seconds, 3):g} s" if seconds < 60 else f"{round(seconds / 60, 3):g} min"


def describe_predictor(source: str | Path, allow: Collection[str] = ()) -> str:
    """Say in words what a predictor, a run's predictor or a forecast file is.

    Raises:
        UserError: there is no such thing, or it is damaged.
    """
    predictor = load_predictor(source, allow=allow)
    if isinstance(predictor, ForecastFile):
        made = f"{len(predictor)} clips of '{predictor.card}' {predictor.split}, by {predictor.predictor}"
        return f"forecast file {predictor.name}: {predictor.horizon} frames after {predictor.context}, {made}; units {predictor.spec.units}"
    if not isinstance(predictor, Predictor):
        return f"baseline {predictor.name}: {(type(predictor).__doc__ or '').strip()}"
    spec, weights = predictor.spec, sum(weight.numel() for weight in predictor.network.parameters())
    settings = ", ".join(f"{key} {value}" for key, value in predictor.network_settings.items())
    clock = "" if spec.time_step is None else f", every {_span(spec.time_step)}"
    lines = [
        f"predictor   {predictor.name}",
        f"network     {predictor.network_name} ({settings})",
        f"weights     {weights:,} parameters",
        f"frames      {spec.channels} x {spec.height} x {spec.width}, units {spec.units}{clock}",
        f"scaled      {spec.transform.name}, {spec.transform.low:g} to 0 and {spec.transform.high:g} to 1; missing is fed as {spec.fill:g}",
        f"trained     {predictor.context} observed frames, {predictor.horizon} to forecast",
        *_describe_costs(predictor),
    ]
    if spec.grid is not None:
        lines.append(f"grid        {spec.grid.projection}, corners {spec.grid.corners}, row 0 in the {spec.grid.row_origin}")
    lines += [f"{key:11} {value}" for key, value in predictor.provenance.items() if value is not None]
    return "\n".join(lines)


def _describe_costs(predictor: Predictor) -> list[str]:
    """Say what one clip, as trained, costs."""
    try:
        costs = measure_costs(predictor.network, predictor.spec.shape, predictor.context, predictor.horizon)
    except UserError as error:
        return [f"cost        {error}"]
    count = _short(costs.multiply_adds, 1000, ("", " thousand", " million", " billion"))
    memory = f"weights {_bytes(costs.weight_bytes)}"
    if costs.state_bytes:
        memory += f", state {_bytes(costs.state_bytes)} for each clip after {predictor.context} frames"
    if costs.state_growth:
        memory += f", {_bytes(costs.state_growth)} more after the next"
    return [f"cost        {count} multiply-adds for a clip of {predictor.context} + {predictor.horizon} frames", f"memory      {memory}"]


def _bytes(count: int) -> str:
    return _short(count, 1024, (" bytes", " KiB", " MiB", " GiB"))


def _short(number: float, step: int, names: Sequence[str]) -> str:
    """Return a number in the largest unit that leaves at least 1 of it; ``names`` are those of the units, each ``step`` of the last."""
    size = 0
    while number >= step and size + 1 < len(names):
        number, size = number / step, size + 1
    return f"{number:,.0f}{names[0]}" if size == 0 else f"{number:,.1f}{names[size]}"
