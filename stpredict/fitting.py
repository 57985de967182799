"""Whether a predictor fits the data that it is to forecast."""

from __future__ import annotations

from typing import Any

import torch

from stpredict.data.clips import ClipSet
from stpredict.errors import UserError
from stpredict.forecasts import SavedForecasts
from stpredict.frames import FrameSpec
from stpredict.networks import make_network
from stpredict.predictor import Predictor
from stpredict.rain import UNITS


def check_fit(name: str, predictor: Any, data: ClipSet) -> None:
    """Refuse a predictor that was made for other frames than those of the data.

    Raises:
        UserError: channels, units, scale, time step or size differ; it says which, and what in a card turns one into the other.
    """
    spec = getattr(predictor, "spec", None)
    if spec is None or isinstance(predictor, SavedForecasts):  # saved forecasts say themselves which data they are of
        return
    ours, theirs = spec, data.spec
    differing: list[tuple[str, str]] = []
    if ours.channels != theirs.channels:
        cure = "choose the channels by the settings of its reader, such as {colour: true} of a video"
        differing.append((f"channels {ours.channels} instead of {theirs.channels}", cure))
    if ours.units != theirs.units:
        cure = f"take a reader that gives {ours.units} (cf converts, by its setting units)"
        if (ours.units, theirs.units) == ("mm/h", "dBZ"):
            cure = "write units: mm/h and the Z-R pair, such as z_r: [200, 1.6], under frames"
        differing.append((f"units {ours.units} instead of {theirs.units}", cure))
    elif ours.units == "1" and (ours.transform.low, ours.transform.high) != (theirs.transform.low, theirs.transform.high):
        low, high = ours.transform.low, ours.transform.high
        cure = f"bring the values to {low:g} to {high:g} and write that as low and high of transform under frames"
        range_of_data = f"{theirs.transform.low:g} to {theirs.transform.high:g}"
        differing.append((f"values from {low:g} to {high:g} instead of {range_of_data}", cure))
    if ours.time_step is not None and theirs.time_step is not None and ours.time_step != theirs.time_step:
        times = ours.time_step / theirs.time_step
        whole = times > 1 and times.is_integer()
        cure = f"write every: {times:g} under window" if whole else "take frames as far apart as those that it was trained on"
        differing.append((f"a time step in seconds of {ours.time_step} instead of {theirs.time_step}", cure))
    if ours.shape[1:] != theirs.shape[1:] and _bound_to_size(predictor, theirs):
        size = f"{ours.height} x {ours.width}"
        cure = f"write resize: [{ours.height}, {ours.width}] under spatial, or crop to that size"
        differing.append((f"weights for single pixels of frames of {size} instead of {theirs.height} x {theirs.width}", cure))
    if differing:
        facts, cures = ", ".join(fact for fact, _ in differing), "; ".join(cure for _, cure in differing)
        what = f"The predictor '{name}' does not fit the data '{data.card}': it has {facts}"
        if ours.units != theirs.units and not {ours.units, theirs.units} <= set(UNITS):
            raise UserError(f"{what}; nothing turns {theirs.units} into {ours.units}, so use it on data of the kind that it was trained on")
        raise UserError(f"{what}; in a copy of the card, {cures}")


def unlike_training(name: str, predictor: Any, data: ClipSet) -> list[str]:
    """Return what should be known of a predictor that takes these frames, but has learnt from others: a sentence, or nothing."""
    if not isinstance(predictor, Predictor) or predictor.spec.shape == data.spec.shape:
        return []
    ours, theirs = (f"{spec.height} x {spec.width}" for spec in (predictor.spec, data.spec))
    return [
        f"The predictor '{name}' was trained on frames of {ours} pixels, and those of '{data.card}' are of {theirs}: it takes them as more "
        f"or less of such a picture; if it is what a pixel stands for that differs, resize: [{predictor.spec.height}, "
        f"{predictor.spec.width}] under spatial, in a copy of the card, makes them alike"
    ]


def _bound_to_size(predictor: Any, spec: FrameSpec) -> bool:
    """Whether the network would have other weights for frames of the size of ``spec``, as with layer norms of whole frames."""
    if not isinstance(predictor, Predictor) or getattr(predictor, "tile", None) is not None:
        return False
    with torch.device("meta"):
        other = make_network(
            predictor.network_name,
            predictor.network_settings,
            channels=predictor.spec.channels,
            frame_size=(spec.height, spec.width),
            context=predictor.context,
            spec=predictor.spec,
        )
    ours = predictor.network.state_dict()
    return any(ours[key].shape != weight.shape for key, weight in other.state_dict().items())
