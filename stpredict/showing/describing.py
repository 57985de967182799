"""What a predictor is, in words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from stpredict.costs import measure_costs
from stpredict.errors import UserError
from stpredict.forecasts import SavedForecasts
from stpredict.predictor import Predictor, load_predictor
from stpredict.shipped import FOLDER, read_index
from stpredict.showing.maps import span


def describe_predictor(source: str | Path, allow: Collection[str] = ()) -> str:
    """Say in words what a predictor, a run's predictor or a forecast file is.

    Raises:
        UserError: there is no such thing, or it is damaged.
    """
    predictor = load_predictor(source, allow=allow)
    if isinstance(predictor, SavedForecasts):
        return predictor.describe()
    if not isinstance(predictor, Predictor):
        return f"baseline {predictor.name}: {(type(predictor).__doc__ or '').strip()}"
    spec, weights = predictor.spec, sum(weight.numel() for weight in predictor.network.parameters())
    settings = ", ".join(f"{key} {value}" for key, value in predictor.network_settings.items())
    clock = "" if spec.time_step is None else f", every {span(spec.time_step)}"
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
    lines += _describe_shipped(str(source))
    return "\n".join(lines)


def _describe_shipped(name: str) -> list[str]:
    """Say what the index and the model card of a shipped predictor add."""
    one = read_index().get(name)
    if one is None:
        return []
    return [
        f"about       {one.about}",
        f"score       {one.result()}, of {one.clips} clips of {one.data}'s split {one.split}, protocol {one.protocol}",
        f"training    {one.steps:,} steps in {span(one.seconds)}",
        f"licence     {one.licence}",
        f"file        {one.size:,} bytes, weights as bf16, SHA-256 {one.sha256}",
        f"model card  {FOLDER / f'{name}.md'}",
    ]


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
