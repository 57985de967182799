"""Probabilities of events: by hand, by brute force, and against the decomposition of the Brier score."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.metrics import RunningScore, create_scores
from stpredict.metrics.running import names_of_parts

SPEC = FrameSpec(1, 20, 24, thresholds=(0.5, 1.5))


def running(name: str, prediction: torch.Tensor, truth: torch.Tensor, spec: FrameSpec = SPEC) -> Any:
    (score,) = create_scores([name])
    sums = RunningScore(truth.shape[1], score)
    for clip in range(len(truth)):  # sums, not means, are what is kept
        sums.add(*score(prediction[clip : clip + 1], truth[clip : clip + 1], spec))
    return sums


def ensemble(members: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(members)
    signal = random.normal(0.7, 1, (3, 1, 2, 1, 20, 24))
    truth = (signal[:, 0] + random.normal(0, 1, (3, 2, 1, 20, 24))).astype(np.float32)
    truth[random.random(truth.shape) < 0.2] = np.nan
    members_ = signal + random.normal(0, 0.6, (3, members, 2, 1, 20, 24))
    return torch.from_numpy(members_.astype(np.float32)), torch.from_numpy(truth)


def test_by_hand() -> None:
    members = torch.tensor([[0.0, 1.0, 1.0, 2.0], [0.0, 0.0, 1.0, 2.0]]).view(1, 2, 1, 1, 1, 4)
    truth = torch.tensor([0.0, 1.0, 0.0, math.nan]).view(1, 1, 1, 1, 4)
    spec = FrameSpec(1, 1, 4, thresholds=(1.0,))
    # probabilities 0, 1/2, 1, (1); came: no, yes, no
    assert running("brier", members, truth, spec).mean() == pytest.approx((0 + 0.25 + 1) / 3)
    assert running("reliability", members, truth, spec).mean() == pytest.approx((0 + 0.25 + 1) / 3)
    calibration = running("calibration", members, truth, spec)
    np.testing.assert_allclose(calibration.parts(), [0.0, 0.5, -1.0])
    assert calibration.mean() == pytest.approx(0.5)
    assert names_of_parts(calibration.score, spec, 3) == ("1 at 0", "1 at 1/2", "1 at 1")


@pytest.mark.parametrize("members", [1, 3, 10])
def test_equal_brute_force(members: int) -> None:
    prediction, truth = ensemble(members)
    x, y = prediction.double().numpy(), truth.double().numpy()
    valid, brier, reliability = ~np.isnan(y), [], []
    calibration = running("calibration", prediction, truth)
    curve = calibration.parts().reshape(2, members + 1)
    for number, threshold in enumerate(SPEC.thresholds):
        chance, came = (x >= threshold).mean(1)[valid], (y >= threshold)[valid]
        brier.append(((chance - came) ** 2).mean())
        uncertainty, resolution, away = came.mean() * (1 - came.mean()), 0.0, 0.0
        for step in range(members + 1):
            here = np.isclose(chance, step / members)
            frequency = came[here].mean()
            away += here.mean() * (frequency - step / members) ** 2
            resolution += here.mean() * (frequency - came.mean()) ** 2
            assert curve[number, step] == pytest.approx(frequency - step / members, abs=1e-9)
        reliability.append(away)
        assert brier[-1] == pytest.approx(away - resolution + uncertainty, rel=1e-9)  # Murphy 1973
    np.testing.assert_allclose(running("brier", prediction, truth).parts(), brier, rtol=1e-9)
    np.testing.assert_allclose(running("reliability", prediction, truth).parts(), reliability, rtol=1e-9)


def test_equals_pysteps() -> None:
    probscores = pytest.importorskip("pysteps.verification.probscores")
    prediction, truth = ensemble(8)
    y = truth[:, 0, 0].double().numpy()
    chance = (prediction[:, :, 0, 0] >= 0.5).double().mean(1).numpy()
    diagram = probscores.reldiag_init(0.5, n_bins=9)
    probscores.reldiag_accum(diagram, chance.reshape(-1, 24), y.reshape(-1, 24))
    _, frequency = probscores.reldiag_compute(diagram)
    curve = running("calibration", prediction[:, :, :1], truth[:, :1], FrameSpec(1, 20, 24, thresholds=(0.5,))).parts()
    np.testing.assert_allclose(curve + np.linspace(0, 1, 9), frequency, atol=1e-9)


def test_a_reliable_ensemble_is_near_the_diagonal_and_a_narrow_one_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(4, 1, 1, 1, 90, 90, generator=generator)
    draws = signal + torch.randn(4, 21, 1, 1, 90, 90, generator=generator)
    spec = FrameSpec(1, 90, 90, thresholds=(0.5,))
    reliable = running("reliability", draws[:, 1:], draws[:, 0], spec).mean()
    narrow = running("reliability", signal + 0.2 * (draws[:, 1:] - signal), draws[:, 0], spec).mean()
    assert reliable < 0.002 < 5 * reliable < narrow


def test_missing_members_and_missing_thresholds() -> None:
    prediction, truth = ensemble()
    truth[0, 0, 0, 0, 0] = 1.0
    prediction[0, 1, 0, 0, 0, 0] = math.nan
    for name in ("brier", "reliability", "calibration"):
        assert np.isnan(running(name, prediction, truth).per_lead()).tolist() == [True, False]
        with pytest.raises(UserError, match=f"'{name}' needs thresholds"):
            running(name, prediction, truth, FrameSpec(1, 20, 24))
