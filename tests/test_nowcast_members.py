"""Ensembles: several predictors, networks that draw, observed frames that are not quite certain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from stpredict.baselines import ContextMean, Persistence
from stpredict.draws import Draws
from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.networks import RecurrentNetwork, Step
from stpredict.nowcast_members import Ensemble, Perturbation
from stpredict.predictor import Predictor

SPEC = FrameSpec(1, 24, 20, "mm/h", minimum=0.0)


def rain() -> Tensor:
    """Two frames ``(2, 1, 24, 20)`` with a dry half and a pixel that is missing."""
    frames = torch.rand(2, 1, 24, 20, generator=torch.Generator().manual_seed(0)) * 10 + 1
    frames[..., :10] = 0.0
    frames[:, :, 3, 15] = torch.nan
    return frames


class Wobble(RecurrentNetwork):
    """Adds one number that it draws, if it is given draws."""

    stochastic = True

    def initial_state(self, batch: int, height: int, width: int) -> tuple[()]:
        return ()

    def prepare(self, batch: int, draws: Draws | None = None) -> Tensor:
        return torch.zeros(batch) if draws is None else draws.uniform("noise").float()

    def step(self, frame: Tensor | None, state: tuple[()], constants: Tensor, known: Tensor | None = None) -> Step:
        assert frame is not None
        return Step(frame + constants[:, None, None, None], ())


def test_members_of_a_gain_are_the_frames_times_smooth_factors_of_mean_one() -> None:
    frames = rain()
    ensemble = Ensemble(members=5, perturb=Perturbation("gain", 0.3), seed=7)
    members = ensemble.forecast(Persistence(), frames, SPEC, 2)
    assert members.shape == (5, 2, 1, 24, 20)
    np.testing.assert_array_equal(members[0, 0], frames[1], "the first member sees what was observed")
    wet = (frames[1, 0] > 0).numpy()
    for member in members[1:, 0, 0]:
        assert (member[:, :10] == 0).all() and np.isnan(member[3, 15]), "rain stays where it is, missing stays missing"
        logarithm = np.log(member[wet] / frames[1, 0].numpy()[wet])
        assert 0.05 < logarithm.std() < 0.6
        field = np.log(member[:, 10:15] / frames[1, 0, :, 10:15].numpy())
        steps = np.abs(np.diff(field, axis=0))
        assert np.nanmax(steps) < 0.15, "smooth"
    assert not np.allclose(members[1][~np.isnan(members[1])], members[2][~np.isnan(members[2])])
    again = ensemble.forecast(Persistence(), frames, SPEC, 2)
    np.testing.assert_array_equal(members, again)
    other = Ensemble(members=5, perturb=Perturbation("gain", 0.3), seed=8).forecast(Persistence(), frames, SPEC, 2)
    assert not np.array_equal(members[1], other[1], equal_nan=True)


def test_the_logarithm_of_a_gain_has_the_deviation_that_was_asked_for() -> None:
    ones = torch.ones(1, 1, 24, 20)
    fields = [np.log(Perturbation("gain", 0.2).apply(ones, SPEC, 1, member)[0, 0].numpy()) for member in range(1, 4)]
    for field in fields:
        assert field.std() == pytest.approx(0.2, rel=1e-5) and field.mean() == pytest.approx(-0.02, abs=1e-6)


def test_noise_is_white_has_its_size_and_makes_no_negative_rain() -> None:
    frames = torch.full((2, 1, 24, 20), 50.0)
    changed = Perturbation("noise", 2.0).apply(frames, SPEC, 0, 1) - frames
    assert changed.std().item() == pytest.approx(2.0, rel=0.1) and abs(changed.mean().item()) < 0.3
    assert abs(np.corrcoef(changed[0].flatten(), changed[1].flatten())[0, 1]) < 0.15, "each frame by itself"
    assert Perturbation("noise", 2.0).apply(rain(), SPEC, 0, 1).nan_to_num().min() == 0


def test_a_network_that_draws_makes_its_own_members() -> None:
    predictor = Predictor(Wobble(), SPEC, 2, 2, network_name="wobble", network_settings={})
    drawing = Ensemble(members=3, seed=5)
    drawing.check([predictor])
    members = drawing.forecast(predictor, rain(), SPEC, 2)
    expected = predictor.forecast(rain()[None], 2, members=3, seed=5)[0].numpy()
    np.testing.assert_array_equal(members, expected)
    assert len({float(member[0, 0, 0, 0]) for member in members}) == 3
    both = Ensemble(members=3, perturb=Perturbation("noise", 0.5), seed=5).forecast(predictor, rain(), SPEC, 2)
    np.testing.assert_array_equal(both[0], predictor.forecast(rain()[None], 2, members=1, seed=5)[0, 0].numpy())
    seen = Perturbation("noise", 0.5).apply(rain(), SPEC, 5, 2)
    np.testing.assert_array_equal(both[2], predictor.forecast(seen[None], 2, members=1, seed=7)[0, 0].numpy())


def test_one_forecast_has_an_axis_of_one() -> None:
    forecast = Ensemble().forecast(ContextMean(), rain(), SPEC, 2)
    assert forecast.shape == (1, 2, 1, 24, 20)
    np.testing.assert_allclose(forecast[0, 0], rain().mean(0), rtol=1e-6)


def test_what_would_do_nothing_is_refused() -> None:
    for ensemble, sentence in {
        Ensemble(members=3): "'persistence' draws nothing at random, so its 3 members would be equal",
        Ensemble(members=1): "at least two members, not 1",
        Ensemble(perturb=Perturbation("gain", 0.1)): "A perturbation is for the members of an ensemble",
    }.items():
        with pytest.raises(UserError, match=sentence):
            ensemble.check([Persistence()])
    for text, sentence in {
        "gian=1": "no perturbation 'gian'; did you mean 'gain'",
        "gain": "written as RULE=SIZE, such as gain=0.2, not 'gain'",
        "gain=x": "written as RULE=SIZE",
        "noise=0": "a size above 0, not 0.0",
        "noise=inf": "a size above 0, not inf",
    }.items():
        with pytest.raises(UserError, match=sentence):
            Perturbation.parse(text)
    assert Perturbation.parse("gain=0.2") == Perturbation("gain", 0.2) and str(Perturbation("noise", 1.5)) == "noise=1.5"
    with pytest.raises(UserError, match="dBZ is a logarithm"):
        Perturbation("gain", 0.1).apply(rain(), FrameSpec(1, 24, 20, "dBZ"), 0, 1)
