"""What other formats call the quantities whose units a frame spec has."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """A quantity by its names.

    Attributes:
        name: of the variable in NetCDF; the first two are those that pysteps looks for.
        standard_name: of the CF conventions, or None where they have none.
        long_name: for people.
    """

    name: str
    standard_name: str | None
    long_name: str


_QUANTITIES = {
    "mm/h": Quantity("precip_intensity", "lwe_precipitation_rate", "precipitation rate"),
    "dBZ": Quantity("reflectivity", "equivalent_reflectivity_factor", "radar reflectivity"),
    "mm": Quantity("precip_accum", "lwe_thickness_of_precipitation_amount", "precipitation amount"),
    "kg/m2": Quantity("water_content", None, "vertically integrated liquid water"),
}


def quantity_of(units: str) -> Quantity:
    """Return what frames of these units are of; ``forecast`` where the units do not tell."""
    return _QUANTITIES.get(units, Quantity("forecast", None, "forecast"))


def udunits(units: str) -> str:
    """Return units as UDUNITS writes them, without a slash: ``mm/h`` becomes ``mm h-1``."""
    over, *under = units.split("/")
    inverse = [re.sub(r"^([^\d\s]+?)(\d*)$", lambda found: f"{found[1]}-{found[2] or 1}", unit.strip()) for unit in under]
    return " ".join([*([over.strip()] if over.strip() not in ("", "1") or not inverse else []), *inverse])
