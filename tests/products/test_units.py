"""Units as UDUNITS writes them, and what quantities are called elsewhere."""

from __future__ import annotations

import pytest

from stpredict.products.units import quantity_of, udunits


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("mm/h", "mm h-1"),
        ("kg/m2", "kg m-2"),
        ("1", "1"),
        ("dBZ", "dBZ"),
        ("mm", "mm"),
        ("1/s", "s-1"),
        ("mm6/m3", "mm6 m-3"),
        ("m s-1", "m s-1"),
    ],
)
def test_units_without_a_slash(ours: str, theirs: str) -> None:
    assert udunits(ours) == theirs


def test_units_are_those_of_the_quantity_by_udunits() -> None:
    """Each can be converted into the canonical units of its standard name."""
    cf_units = pytest.importorskip("cf_units")
    for units, canonical in {"mm/h": "m s-1", "mm": "m", "kg/m2": "kg m-2"}.items():
        assert cf_units.Unit(udunits(units)).is_convertible(canonical)


def test_quantities() -> None:
    assert quantity_of("mm/h").standard_name == "lwe_precipitation_rate" and quantity_of("mm/h").name == "precip_intensity"
    assert quantity_of("dBZ").standard_name == "equivalent_reflectivity_factor" and quantity_of("dBZ").name == "reflectivity"
    assert quantity_of("furlong").name == "forecast" and quantity_of("furlong").standard_name is None
