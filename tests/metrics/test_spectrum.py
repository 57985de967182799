import math

import numpy as np
import pytest
import torch

from stpredict.frames import FrameSpec
from stpredict.metrics import RunningScore, create_scores
from stpredict.metrics.spectrum import radial_spectrum

PYSTEPS = [
    1117.0147843577604,
    5.595312960844652,
    154.18897209382757,
    7.359855630053541,
    8.57728376129579,
    1.6252274960504924,
    0.47487684596277047,
    0.43705051690819374,
    0.2575565158896336,
    0.1456678789576761,
    0.11308069308009921,
    0.0799448262162556,
]
"""``pysteps.utils.spectral.rapsd(field, numpy.fft)`` of pysteps 1.21 for the first wave field, 20 x 24."""


def run(name, prediction, truth, spec):
    (score,) = create_scores([name])
    running = RunningScore(truth.shape[1], score)
    running.add(*score(prediction, truth, spec))
    return running


def test_equals_what_pysteps_says(waves):
    np.testing.assert_allclose(radial_spectrum(torch.from_numpy(waves()[0])), PYSTEPS, rtol=1e-10)


@pytest.mark.parametrize("shape", [(20, 24), (24, 20), (15, 15), (16, 16), (13, 30), (1, 9)])
def test_equals_pysteps_for_every_kind_of_size(shape, waves):
    spectral = pytest.importorskip("pysteps.utils.spectral")
    fields = waves(3, *shape)
    found = radial_spectrum(torch.from_numpy(fields))
    np.testing.assert_allclose(found, [spectral.rapsd(field, np.fft) for field in fields], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(15, 15), (16, 16), (13, 30)])
def test_equals_a_loop_over_all_coefficients(shape, waves):
    (field,) = waves(1, *shape)
    height, width = shape
    power = abs(np.fft.fft2(field)) ** 2 / field.size
    bins = [[] for _ in range((max(shape) + 1) // 2)]
    for row in range(height):
        for column in range(width):
            y, x = (row + height // 2) % height - height // 2, (column + width // 2) % width - width // 2
            radius = round(math.hypot(x, y))
            if radius < len(bins):
                bins[radius].append(power[row, column])
    np.testing.assert_allclose(radial_spectrum(torch.from_numpy(field)), [np.mean(values) for values in bins], rtol=1e-9, atol=1e-12)


def test_a_forecast_of_half_the_amplitude_lacks_6_db_everywhere(waves):
    truth = torch.from_numpy(waves(6)).float().view(2, 3, 1, 20, 24)
    spec = FrameSpec(1, 20, 24)
    running = run("log_spectral_distance", truth / 2, truth, spec)
    lacking = 10 * math.log10(1 / 4)
    assert running.parts().tolist() == pytest.approx([lacking] * 11, rel=1e-6)
    assert running.mean() == pytest.approx(-lacking, rel=1e-6) and running.per_lead().tolist() == pytest.approx([-lacking] * 3, rel=1e-6)
    assert run("small_scale_power", truth / 2, truth, spec).mean() == pytest.approx(0.25, rel=1e-6)
    assert create_scores(["log_spectral_distance"])[0].parts(spec) == tuple(str(number) for number in range(1, 12))


def test_spectra_are_averaged_before_they_are_compared(waves):
    truth = torch.from_numpy(waves(4)).float().view(2, 2, 1, 20, 24)
    prediction = truth.flip(0) * 0.7
    first, second = (radial_spectrum(films).mean((0, 2)).numpy() for films in (prediction, truth))
    running = run("log_spectral_distance", prediction, truth, FrameSpec(1, 20, 24))
    np.testing.assert_allclose(running.parts_per_lead(), (10 * np.log10(first / second))[:, 1:], rtol=1e-9)
    small = run("small_scale_power", prediction, truth, FrameSpec(1, 20, 24))
    np.testing.assert_allclose(small.per_lead(), first[:, 3:].sum(1) / second[:, 3:].sum(1), rtol=1e-9)


def test_the_power_ratio_of_each_wavelength(waves):
    truth = torch.from_numpy(waves(4)).float().view(2, 2, 1, 20, 24)
    prediction = truth.flip(0) * 0.7
    spec = FrameSpec(1, 20, 24)
    first, second = (radial_spectrum(films).mean((0, 2)).numpy() for films in (prediction, truth))
    running = run("power_ratio", prediction, truth, spec)
    np.testing.assert_allclose(running.parts_per_lead(), (first / second)[:, 1:], rtol=1e-9)
    np.testing.assert_allclose(running.per_lead(), (first / second)[:, 1:].mean(1), rtol=1e-9)
    np.testing.assert_allclose(10 * np.log10(running.parts()), run("log_spectral_distance", prediction, truth, spec).parts(), rtol=1e-9)
    assert run("power_ratio", truth / 2, truth, spec).parts() == pytest.approx([0.25] * 11, rel=1e-6)
    (score,) = create_scores(["power_ratio"])
    assert score.parts(spec)[:4] == ("24 px", "12 px", "8 px", "6 px") and len(score.parts(spec)) == 11
    for side in (13, 64, 480, 1000):
        names = score.parts(FrameSpec(1, 8, side))
        assert len(names) == len(set(names)) == len(radial_spectrum(torch.zeros(8, side))) - 1


def test_one_wave_has_its_power_at_its_own_wavelength():
    columns = torch.arange(64.0)
    truth = torch.randn(1, 1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    wave = torch.cos(2 * math.pi * columns / 16).expand(1, 1, 1, 64, 64)
    spec = FrameSpec(1, 64, 64)
    parts = dict(zip(create_scores(["power_ratio"])[0].parts(spec), run("power_ratio", 50 * wave, truth, spec).parts(), strict=True))
    assert max(parts, key=parts.get) == "16 px" and sum(parts.values()) - parts["16 px"] < 1e-6


def test_blur_shows(rain_films):
    _, truth = rain_films(missing=0.0)
    blurred = torch.nn.functional.avg_pool2d(truth.flatten(0, 1), 5, 1, 2).view(truth.shape)
    spec = FrameSpec(1, 16, 20)
    assert run("small_scale_power", blurred, truth, spec).mean() < 0.3
    assert run("log_spectral_distance", truth, truth, spec).mean() == 0 < 3 < run("log_spectral_distance", blurred, truth, spec).mean()


@pytest.mark.parametrize("name", ["log_spectral_distance", "small_scale_power", "power_ratio"])
def test_missing_pixels_are_filled_in_both_and_missing_frames_do_not_count(name, rain_films):
    prediction, truth = rain_films()
    spec = FrameSpec(1, 16, 20, fill=1.5)
    filled = [torch.where(torch.isnan(truth), 1.5, field) for field in (prediction, truth)]
    whole = run(name, prediction, truth, spec)
    assert whole.mean() == pytest.approx(run(name, *filled, spec).mean(), rel=1e-12)
    spoilt = torch.where(torch.isnan(truth), math.nan, prediction)
    assert run(name, spoilt, truth, spec).mean() == whole.mean()
    truth[2, 1] = math.nan
    without = [torch.cat([films[:2], films[3:]]) for films in (prediction, truth)]
    assert run(name, prediction, truth, spec).per_lead()[1] == pytest.approx(run(name, *without, spec).per_lead()[1], rel=1e-12)
    prediction[0, 0, 0][~torch.isnan(truth[0, 0, 0])] = math.nan
    assert np.isnan(run(name, prediction, truth, spec).per_lead()).tolist() == [True, False, False]


def test_members_have_the_mean_of_their_powers_and_their_mean_has_less():
    random = torch.Generator().manual_seed(0)
    members, truth = torch.rand(2, 3, 2, 1, 16, 16, generator=random), torch.rand(2, 2, 1, 16, 16, generator=random)
    spec = FrameSpec(1, 16, 16)
    of_members, of_mean = create_scores(["power_ratio_members", "power_ratio"])
    total, weight = of_members(members, truth, spec)
    alone = [of_mean(members[:, number], truth, spec)[0] for number in range(3)]
    torch.testing.assert_close(total, sum(alone) / 3)
    assert torch.equal(weight, of_mean(members.mean(1), truth, spec)[1]) and of_members.parts(spec) == of_mean.parts(spec)
    assert float((of_mean(members.mean(1), truth, spec)[0] / total).mean()) == pytest.approx(1 / 3, abs=0.05)
    assert torch.equal(of_members(members[:, 0], truth, spec)[0], alone[0])
