"""Scores from JSON that anybody may have written: nothing is believed before it is looked at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Read = Callable[[Any, str], Any]


def read_scores(plain: Any) -> dict[str, Any]:
    """Return what :class:`stpredict.results.Scores` is made of, None in place of numbers as NaN.

    Raises:
        ValueError: a part lacks or is something else than it should be; it says which.
    """
    whole = _mapping(plain, "the whole")
    data = _mapping(whole.get("data"), "data")
    found: dict[str, Any] = {name: _text(data.get(name), f"data.{name}") for name in ("card", "split", "hash", "units")}
    found |= {name: _count(data.get(name), f"data.{name}") for name in ("clips", "context", "horizon")}
    found |= {name: _text(whole.get(name), name) for name in ("protocol", "version")}
    time_step = data.get("time_step")
    found["time_step"] = None if time_step is None else _number(time_step, "data.time_step")
    found["members"] = None if whole.get("members") is None else _count(whole["members"], "members")
    found["resample"] = _text(whole.get("resample", "clips"), "resample")
    horizon = found["horizon"]

    def numbers(value: Any, where: str) -> dict[str, Any]:
        return _numbers(value, where, horizon)

    found["scores"] = _each(_each(numbers))(whole.get("scores"), "scores")
    if not found["scores"]:
        raise ValueError("'scores' holds no predictor")
    found["predictors"] = _each(_predictor)(whole.get("predictors", {}), "predictors")
    found["better"] = _each(_way)(whole.get("better", {}), "better")
    found["selected"] = _each(_each(_each(_count)))(whole.get("selected", {}), "selected")
    found["published"] = _each(_published)(whole.get("published", {}), "published")
    warnings = whole.get("warnings", [])
    if not isinstance(warnings, list):
        raise ValueError("'warnings' is no list")
    found["warnings"] = tuple(_text(warning, "warnings") for warning in warnings)
    found["over"] = None
    if "over" in whole:
        over = _mapping(whole["over"], "over")
        found["over"] = {"name": _text(over.get("name"), "over.name")}
        for kind in ("skill", "differences"):
            read = _each(_each(lambda value, where: _estimate(value, where, horizon)))
            found["over"][kind] = read(over.get(kind), f"over.{kind}")
    return found


def _numbers(value: Any, where: str, horizon: int) -> dict[str, Any]:
    """Read the numbers of a score, or of a part of it."""
    plain = _mapping(value, where)
    read: dict[str, Any] = {"mean": _number(plain.get("mean"), f"{where}.mean")}
    if "interval" in plain:
        read["interval"] = _list(plain["interval"], f"{where}.interval", 2)
    read["per_lead"] = _list(plain.get("per_lead"), f"{where}.per_lead", horizon)
    if "per_lead_interval" in plain:
        read["per_lead_interval"] = _ends(plain["per_lead_interval"], f"{where}.per_lead_interval", horizon)
    if "parts" in plain:
        read["parts"] = _each(lambda part, there: _numbers(part, there, horizon))(plain["parts"], f"{where}.parts")
    return read


def _predictor(value: Any, where: str) -> dict[str, Any]:
    plain = dict(_mapping(value, where))
    if plain.get("kind") not in ("predictor", "baseline", "forecasts"):
        raise ValueError(f"'{where}.kind' is {plain.get('kind')!r:.40}")
    for name in ("network", "hash"):
        if plain.get(name) is not None:
            _text(plain[name], f"{where}.{name}")
    if plain.get("weights") is not None:
        _count(plain["weights"], f"{where}.weights")
    _mapping(plain.get("provenance", {}), f"{where}.provenance")
    return plain


def _published(value: Any, where: str) -> dict[str, Any]:
    plain = _mapping(value, where)
    scores = _each(_number)(plain.get("scores"), f"{where}.scores")
    return {"page": _text(plain.get("page"), f"{where}.page"), "scores": scores}


def _estimate(value: Any, where: str, horizon: int) -> dict[str, Any]:
    plain = _mapping(value, where)
    read: dict[str, Any] = {name: _number(plain.get(name), f"{where}.{name}") for name in ("value", "low", "high")}
    if "per_lead" in plain:
        read["per_lead"] = _list(plain["per_lead"], f"{where}.per_lead", horizon)
        read["per_lead_interval"] = _ends(plain.get("per_lead_interval"), f"{where}.per_lead_interval", horizon)
    return read


def _ends(value: Any, where: str, horizon: int) -> list[list[float]]:
    """Read the lower ends of intervals by lead, and the upper ones."""
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"'{where:.80}' is not two lists")
    return [_list(end, where, horizon) for end in value]


def _each(read: Read) -> Read:
    """Return what reads every value of a mapping so."""

    def of(value: Any, where: str) -> dict[str, Any]:
        return {_text(key, where): read(part, f"{where}.{key}") for key, part in _mapping(value, where).items()}

    return of


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"'{where:.80}' is no object")
    return value


def _list(value: Any, where: str, length: int) -> list[float]:
    if not isinstance(value, list) or len(value) != length:
        raise ValueError(f"'{where:.80}' is not {length} numbers")
    return [_number(number, where) for number in value]


def _number(value: Any, where: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"'{where:.80}' is no number")
    return float(value)


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"'{where:.80}' is no count")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"'{where:.80}' is no text")
    return value


def _way(value: Any, where: str) -> str:
    if value not in ("lower", "higher"):
        raise ValueError(f"'{where:.80}' is {value!r:.40}")
    return str(value)
