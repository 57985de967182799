import math

import numpy as np
import pytest
import torch

from stpredict.errors import UserError
from stpredict.frames import FrameSpec, Transform
from stpredict.rain import dbz_to_rain, in_units, rain_to_dbz, spec_in_units

MARSHALL_PALMER, HKO = (200.0, 1.6), (58.53, 1.56)


def spec(units, **facts):
    return FrameSpec(1, 4, 4, units=units, **facts)


def test_one_millimetre_an_hour_is_10_log10_a():
    rates = torch.tensor([1.0, 10.0, 0.0, math.nan])
    found = rain_to_dbz(rates, MARSHALL_PALMER)
    assert found[:3].tolist() == pytest.approx([10 * math.log10(200), 10 * math.log10(200) + 16, -10.0]) and found[3].isnan()
    assert float(rain_to_dbz(torch.tensor(0.0), HKO, floor=-32.0)) == -32
    assert float(rain_to_dbz(torch.tensor(-3.0), HKO)) == -10


@pytest.mark.parametrize("pair", [MARSHALL_PALMER, HKO, (316.0, 1.5), (223.0, 1.53)])
def test_there_and_back(pair):
    dbz = torch.linspace(-9, 60, 200, dtype=torch.float64)
    torch.testing.assert_close(rain_to_dbz(dbz_to_rain(dbz, pair), pair), dbz)
    a, b = pair
    np.testing.assert_allclose(dbz_to_rain(dbz, pair), (10 ** (dbz.numpy() / 10) / a) ** (1 / b), rtol=1e-12)


def test_no_rain_is_the_floor_both_ways():
    card = spec("dBZ", z_r=HKO, minimum=-10.0)
    rates = in_units(torch.tensor([-10.0, -9.0, 20.0, math.nan]), card, "mm/h")
    assert rates.dtype == torch.float32 and rates[0] == 0 and rates[1] > 0 and rates[3].isnan()
    assert in_units(torch.tensor(-10.0), spec("dBZ", z_r=HKO), "mm/h") > 0
    assert float(in_units(torch.tensor(0.0), spec("mm/h", z_r=HKO), "dBZ")) == -10


@pytest.mark.parametrize("period", [300.0, 360.0, 900.0, 3600.0])
def test_depth_and_rate_by_the_period(period):
    depth = torch.tensor([0.0, 0.01, 2.5])
    gathered = spec("mm", period=period)
    rates = in_units(depth, gathered, "mm/h")
    np.testing.assert_allclose(rates, depth.double() * 3600 / period, rtol=1e-6)
    np.testing.assert_allclose(in_units(rates, spec("mm/h", period=period), "mm"), depth, rtol=1e-6)
    dbz = in_units(depth, spec("mm", period=period, z_r=MARSHALL_PALMER), "dBZ")
    np.testing.assert_allclose(dbz, rain_to_dbz(rates, MARSHALL_PALMER), rtol=1e-5)


def test_events_are_the_same_in_all_units():
    """Values in steps of half a decibel, many of them at a threshold itself."""
    card = spec("dBZ", z_r=HKO, minimum=-10.0, thresholds=tuple(np.arange(-5, 50, 2.5)))
    values = torch.arange(-10, 60, 0.5).repeat(7)
    rates, same = in_units(values, card, "mm/h"), spec_in_units(card, "mm/h")
    for threshold, rate in zip(card.thresholds, same.thresholds, strict=True):
        assert torch.equal(values >= threshold, rates >= rate)


def test_a_spec_in_other_units():
    card = spec("dBZ", transform=Transform(low=-10.0, high=60.0), fill=-10.0, minimum=-10.0, z_r=HKO, thresholds=(20.0, 35.0))
    other = spec_in_units(card, "mm/h")
    assert (other.units, other.fill, other.minimum, other.z_r, other.transform.low) == ("mm/h", 0.0, 0.0, HKO, 0.0)
    assert other.thresholds == pytest.approx([(10**2 / 58.53) ** (1 / 1.56), (10**3.5 / 58.53) ** (1 / 1.56)], rel=1e-6)
    assert other.transform.high == pytest.approx((10**6 / 58.53) ** (1 / 1.56), rel=1e-6)
    assert spec_in_units(card, "dBZ") is card
    values = torch.rand(3)
    assert in_units(values, card, "dBZ") is values


def test_what_cannot_be_converted_is_refused():
    for units, wanted, facts, why in (
        ("kg/m2", "mm/h", {}, "Values in kg/m2 cannot be turned into mm/h"),
        ("mm/h", "furlong", {}, "only mm/h, mm, dBZ"),
        ("mm/h", "dBZ", {}, "z_r"),
        ("mm", "mm/h", {}, "seconds over which the rain was gathered"),
        ("mm", "dBZ", {"period": 300.0}, "z_r"),
    ):
        with pytest.raises(UserError, match=why):
            in_units(torch.zeros(2), spec(units, **facts), wanted)
