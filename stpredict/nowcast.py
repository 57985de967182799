"""Forecasts of new files: the newest frames in, what follows out. One call of :func:`forecast_files` is one cycle of a service."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import stpredict
from stpredict.data import override
from stpredict.data.card import Card, read_card
from stpredict.data.loader import collate
from stpredict.data.newest import Newest, newest_clip
from stpredict.errors import UserError
from stpredict.forecasts import SavedForecasts
from stpredict.frames import FrameSpec
from stpredict.nowcast_members import Ensemble
from stpredict.predictor import Predictor
from stpredict.products import FORMATS, Nowcast, choose_format, write_product

_CARDS_BY_SUFFIX = {".npy": "array", ".npz": "array", ".h5": "array", ".hdf5": "array"}


def forecast_files(
    predictor: Any,
    inputs: Sequence[Path],
    out: Path,
    *,
    also: Sequence[Any] = (),
    horizon: int | None = None,
    card: str | None = None,
    fill_gaps: str | None = None,
    ensemble: Ensemble | None = None,
    exceed: Sequence[float] = (),
    institution: str = "",
) -> Nowcast:
    """Forecast what follows the newest frames of new files, and write it.

    Args:
        predictor: a trained predictor or a baseline.
        inputs: a folder, a file, or several files that belong together.
        out: where to; its ending is one of :data:`stpredict.products.FORMATS`.
        also: more predictors, whose forecasts are further members.
        horizon: frames to forecast; None: as many as the predictor was trained for.
        card: how to read the inputs; None: by the card that the predictor was trained with if that has a reader, else by suffix; a
            baseline reads as the first predictor that was trained.
        fill_gaps: the rule of :data:`stpredict.data.newest.FILLING` by which missing frames are made up; None: they are refused.
        ensemble: how many members each predictor has, and in what they differ.
        exceed: physical values; the product tells the share of members that reach each.
        institution: who makes the product, as the product is to say.

    Returns:
        what was written.

    Raises:
        UserError: the inputs cannot be read or do not fit, a predictor is a forecast file, an option would do nothing, or ``out`` has an
            unknown ending or no room for what is asked.
        OSError: the product could not be written; then there is none, and an older one stays as it was.
    """
    form = choose_format(out)
    if not form.members and (also or (ensemble is not None and ensemble.members is not None)):
        roomy = ", ".join(ending for ending, other in FORMATS.items() if other.members)
        raise UserError(f"'{out.name}' has room for one forecast, not for an ensemble: write it as {roomy}")
    if not form.facts and institution:
        raise UserError(f"'{out.name}' is a film, which says no institution: leave --institution out")
    nowcast = make_nowcast([predictor, *also], inputs, horizon=horizon, card=card, fill_gaps=fill_gaps, ensemble=ensemble, exceed=exceed)
    if institution:
        nowcast = replace(nowcast, facts={**nowcast.facts, "institution": institution})
    write_product(out, nowcast)
    return nowcast


def make_nowcast(
    predictors: Sequence[Any],
    inputs: Sequence[Path],
    *,
    horizon: int | None = None,
    card: str | None = None,
    fill_gaps: str | None = None,
    ensemble: Ensemble | None = None,
    exceed: Sequence[float] = (),
) -> Nowcast:
    """Forecast what follows the newest frames of new files: :func:`forecast_files` without the file.

    Raises:
        UserError: as there.
    """
    for predictor in predictors:
        if isinstance(predictor, SavedForecasts):
            raise UserError(f"The forecast file {predictor.path} holds forecasts of its own clips alone: give a predictor or a baseline")
    names = [predictor.name for predictor in predictors]
    if len(set(names)) < len(names):
        raise UserError(f"Two predictors of the ensemble have one name, among {', '.join(names)}: give each once, or rename one")
    ensemble = ensemble or Ensemble()
    ensemble.check(predictors)
    if exceed and ensemble.members is None and len(predictors) == 1:
        raise UserError("One forecast has no probabilities: ask for members (--members, --also) or leave --exceed out")
    if any(not np.isfinite(threshold) for threshold in exceed) or len(set(exceed)) < len(exceed):
        raise UserError(f"Thresholds are different numbers, not {', '.join(f'{threshold:g}' for threshold in exceed)}")
    with _one_root(inputs) as root:
        nowcast = _forecast_newest(predictors, root, horizon, card, fill_gaps, ensemble)
    return replace(nowcast, source=", ".join(str(path) for path in inputs), thresholds=tuple(sorted(exceed)))


@contextmanager
def _one_root(inputs: Sequence[Path]) -> Iterator[Path]:
    """Yield one folder or file that stands for all inputs."""
    if len(inputs) == 1:
        yield inputs[0]
        return
    with tempfile.TemporaryDirectory() as folder:
        for path in inputs:
            link = Path(folder, path.name)
            if not path.is_file() or link.exists():
                raise UserError(f"'{path}' is no file, or another input has its name: give one folder, or files of different names")
            link.symlink_to(path.resolve())
        yield Path(folder)


def _forecast_newest(
    predictors: Sequence[Any], source: Path, horizon: int | None, card: str | None, fill_gaps: str | None, ensemble: Ensemble
) -> Nowcast:
    leader = next((predictor for predictor in predictors if own_card(predictor) is not None), predictors[0])
    forecasts: list[NDArray[np.float32]] = []
    read: list[tuple[Card, int, Newest]] = []
    for predictor in predictors:
        chosen = _choose_card(predictor if own_card(predictor) is not None else leader, source, card)
        context = predictor.context or leader.context or chosen.window.context
        newest = next((newest for other, length, newest in read if (other, length) == (chosen, context)), None)
        newest = newest or newest_clip(chosen, source, context, fill_gaps)
        read.append((chosen, context, newest))
        _check(predictor, newest, source, predictors[0], read[0][2])
        observed = collate([(0, newest.clip)]).physical(newest.packing, "cpu")[0]
        horizon = horizon or predictor.horizon or leader.horizon or chosen.window.horizon
        forecasts.append(ensemble.forecast(predictor, observed, newest.spec, horizon, newest.known_inputs(horizon)))
    assert horizon is not None, "at least one predictor"
    return _compose(predictors, read[0][2], source, ensemble, forecasts, horizon)


def continue_newest(predictor: Any, newest: Newest, source: Path, horizon: int) -> Nowcast:
    """Forecast what follows frames that have been read: :func:`make_nowcast` of one predictor, without the reading.

    Raises:
        UserError: the frames do not fit the predictor.
    """
    _check(predictor, newest, source, predictor, newest)
    ensemble, observed = Ensemble(), collate([(0, newest.clip)]).physical(newest.packing, "cpu")[0]
    forecast = ensemble.forecast(predictor, observed, newest.spec, horizon, newest.known_inputs(horizon))
    return _compose([predictor], newest, source, ensemble, [forecast], horizon)


def _compose(
    predictors: Sequence[Any], newest: Newest, source: Path, ensemble: Ensemble, forecasts: Sequence[NDArray[np.float32]], horizon: int
) -> Nowcast:
    """Return the forecasts of the predictors with what they were made from."""
    seen = collate([(0, newest.clip)]).physical(newest.packing, "cpu")[0].numpy()
    names = [predictor.name for predictor in predictors]
    several = ensemble.members is not None or len(predictors) > 1
    per_predictor = len(forecasts[0])
    members = [name if per_predictor == 1 else f"{name} {number + 1}" for name in names for number in range(per_predictor)]
    spec = newest.spec
    return Nowcast(
        predictor=" + ".join(names),
        spec=spec,
        observed=seen,
        forecast=np.concatenate(forecasts) if several else forecasts[0][0],
        times=newest.times(horizon),
        source=str(source),
        film=newest.clip.name,
        filled=newest.filled,
        fill_rule=newest.rule,
        members=tuple(members) if several else (),
        facts=_facts(predictors, ensemble, spec),
    )


def _check(predictor: Any, newest: Newest, source: Path, leader: Any, first: Newest) -> None:
    """Refuse frames that a predictor does not take, and a predictor that forecasts other frames than the first."""
    spec = newest.spec
    if predictor.spec is not None and (predictor.spec.channels, predictor.spec.units) != (spec.channels, spec.units):
        raise UserError(
            f"The predictor '{predictor.name}' takes {predictor.spec.channels} channel(s) of {predictor.spec.units}, "
            f"but '{source}' has {spec.channels} of {spec.units}: name a card that reads it so (--data CARD)"
        )
    for what in ("shape", "units", "time_step", "grid"):
        ours, theirs = getattr(spec, what), getattr(first.spec, what)
        if ours != theirs:
            raise UserError(
                f"'{predictor.name}' and '{leader.name}' forecast frames of different {what.replace('_', ' ')}, {ours} and {theirs}: "
                "members of one ensemble need the same"
            )
    if newest.clip.times is not None and first.clip.times is not None and newest.clip.times[-1] != first.clip.times[-1]:
        raise UserError(f"A frame came into '{source}' while its newest were read: forecast again")


def _facts(predictors: Sequence[Any], ensemble: Ensemble, spec: FrameSpec) -> dict[str, Any]:
    """Return what a product says of the predictors and of what their members differ in."""
    facts: dict[str, Any] = {"hashes": {predictor.name: fingerprint(predictor) for predictor in predictors}}
    if ensemble.members is not None:
        perturbed = {"perturbation": str(ensemble.perturb)} if ensemble.perturb is not None else {}
        facts["ensemble"] = {"members": ensemble.members, "seed": ensemble.seed, **perturbed}
    networks = sorted({predictor.network_name for predictor in predictors if isinstance(predictor, Predictor)})
    if networks:
        facts["references"] = f"stpredict {stpredict.__version__}, whose README names the papers of its networks: {', '.join(networks)}"
    cautions = []
    for predictor in predictors:
        step = None if predictor.spec is None else predictor.spec.time_step
        if step is not None and spec.time_step is not None and abs(step - spec.time_step) > 1e-3 * step:
            cautions.append(f"'{predictor.name}' was trained on steps of {step:g} s, and these are of {spec.time_step:g} s")
        if isinstance(predictor, Predictor) and predictor.spec.shape[1:] != spec.shape[1:]:
            ours, theirs = (f"{one.height} x {one.width}" for one in (predictor.spec, spec))
            cautions.append(f"'{predictor.name}' was trained on frames of {ours} pixels, and these are of {theirs}")
    return {**facts, "cautions": cautions} if cautions else facts


def fingerprint(predictor: Any) -> str:
    """Return what tells a predictor from every other: BLAKE2b-128 of header and weights, or of a baseline's name and the version."""
    digest = hashlib.blake2b(digest_size=16)
    if not isinstance(predictor, Predictor):
        digest.update(f"{predictor.name} {stpredict.__version__}".encode())
        return digest.hexdigest()
    digest.update(json.dumps(predictor.header(), sort_keys=True, default=str).encode())
    for name, weight in sorted(predictor.network.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def own_card(predictor: Any) -> Card | None:
    """Return the card that a predictor was trained with, as its training changed it, if that reads files."""
    trained = predictor.provenance.get("data", {}).get("card") if isinstance(predictor, Predictor) else None
    known = None if trained is None else read_card(trained)
    return None if known is None or known.reader is None else override(known, **predictor.data_changes(trained))


def _choose_card(predictor: Any, source: Path, card: str | None) -> Card:
    own = read_card(card) if card is not None else own_card(predictor)
    if own is not None:
        return own
    if source.is_dir():
        return read_card("frames_folder")
    chosen = override(read_card(_CARDS_BY_SUFFIX.get(source.suffix.lower(), "video")))
    if chosen.name == "array":
        return override(chosen, settings={"axes": "THW"})
    return chosen
