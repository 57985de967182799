"""Losses of ensembles: against sums over all pairs in float64, their gradients, and what they are lowest for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stpredict.errors import UserError
from stpredict.frames import FrameSpec
from stpredict.losses import by_member, make_loss, members_of
from stpredict.metrics import create_scores

SPEC = FrameSpec(1, 4, 5)


def ensemble(members: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    targets = torch.from_numpy(random.normal(1, 2, (3, 2, 1, 4, 5)).astype(np.float32))
    valid = torch.from_numpy(random.random(targets.shape) > 0.2)
    predictions = torch.from_numpy(random.normal(0, 2, (3, members, 2, 1, 4, 5)).astype(np.float32))
    return predictions.requires_grad_(), torch.where(valid, targets, math.nan), valid


def score(settings: dict[str, object], predictions: torch.Tensor, targets: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    total, count = make_loss(settings, SPEC)(predictions, targets, valid)
    assert int(count) == int(valid.sum())
    return total


@pytest.mark.parametrize("members", [2, 3, 7])
@pytest.mark.parametrize(
    ("name", "alpha"), [("crps", None), ("almost-fair-crps", 0.95), ("almost-fair-crps", 1.0), ("almost-fair-crps", 0.0)]
)
def test_equal_the_sums_over_all_pairs_and_so_do_their_gradients(name: str, alpha: float | None, members: int) -> None:
    predictions, targets, valid = ensemble(members)
    settings: dict[str, object] = {"name": name, "members": members} | ({} if alpha is None else {"alpha": alpha})
    total = score(settings, predictions, targets, valid)
    (gradient,) = torch.autograd.grad(total, predictions)
    assert not gradient[~valid.unsqueeze(1).expand_as(predictions)].any()

    x = predictions.detach().double().requires_grad_()
    y = targets.double().nan_to_num().unsqueeze(1)
    pairs = (x.unsqueeze(1) - x.unsqueeze(2)).abs().sum((1, 2))
    distance = (x - y).abs().mean(1)
    plain, fair = distance - pairs / (2 * members**2), distance - pairs / (2 * members * (members - 1))
    share = 0.0 if alpha is None else alpha
    wanted = (share * fair + (1 - share) * plain)[valid].sum()
    assert float(total.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    torch.testing.assert_close(gradient.double(), torch.autograd.grad(wanted, x)[0], atol=1e-6, rtol=1e-5)


def test_the_almost_fair_one_as_it_is_published() -> None:
    """With epsilon, for three members by hand: Lang et al. 2024."""
    predictions = torch.tensor([0.0, 1.0, 4.0]).view(1, 3, 1, 1, 1, 1)
    targets, valid = torch.full((1, 1, 1, 1, 1), 2.0), torch.ones(1, 1, 1, 1, 1, dtype=torch.bool)
    epsilon = (1 - 0.95) / 3
    wanted = (2 + 1 + 2) / 3 - (1 - epsilon) / (2 * 3 * 2) * 2 * (1 + 4 + 3)
    assert float(score({"name": "almost-fair-crps", "members": 3}, predictions, targets, valid)) == pytest.approx(wanted, rel=1e-6)


def test_equal_the_scores_of_the_same_name() -> None:
    predictions, targets, valid = ensemble(4)
    for settings, name in (({"name": "crps"}, "crps"), ({"name": "almost-fair-crps", "alpha": 1.0}, "crps_fair")):
        (metric,) = create_scores([name])
        total, _ = metric(predictions.detach(), targets, SPEC)
        assert float(score(settings, predictions, targets, valid).detach()) == pytest.approx(float(total.sum()), rel=1e-6)


@pytest.mark.parametrize("name", ["crps", "almost-fair-crps"])
def test_of_squares_it_is_the_score_of_their_means(name: str) -> None:
    """By hand over squares of 3 in frames of 4 x 5, of which the last ones are smaller, each as often as it has valid pixels."""
    predictions, targets, valid = ensemble(3)
    loss, total = make_loss({"name": name, "members": 3}, SPEC), 0.0
    for rows in (slice(0, 3), slice(3, 4)):
        for columns in (slice(0, 3), slice(3, 5)):
            for clip, time in np.ndindex(3, 2):
                seen = valid[clip, time, 0, rows, columns]
                if seen.any():
                    x = predictions.detach()[clip, :, time, 0, rows, columns][:, seen].mean(1).view(1, 3, 1, 1, 1, 1)
                    y = targets[clip, time, 0, rows, columns][seen].mean().view(1, 1, 1, 1, 1)
                    total += float(seen.sum()) * float(loss(x, y, torch.ones_like(y, dtype=torch.bool))[0])
    found = score({"name": name, "members": 3, "sizes": [3]}, predictions, targets, valid)
    assert float(found.detach()) == pytest.approx(total, rel=1e-5)
    both = score({"name": name, "members": 3, "sizes": [1, 3]}, predictions, targets, valid)
    pixels = score({"name": name, "members": 3}, predictions, targets, valid)
    assert float(both.detach()) == pytest.approx(float((found + pixels).detach()) / 2, rel=1e-6)
    (gradient,) = torch.autograd.grad(both, predictions)
    assert not gradient[~valid.unsqueeze(1).expand_as(predictions)].any() and torch.isfinite(gradient).all()


def test_equal_members_are_one_and_are_not_driven_apart() -> None:
    predictions, targets, valid = ensemble(1)
    equal = predictions.detach().repeat(1, 4, 1, 1, 1, 1).requires_grad_()
    total = score({"name": "almost-fair-crps"}, equal, targets, valid)
    error = torch.where(valid, predictions[:, 0] - targets.nan_to_num(), 0.0).detach()
    assert float(total.detach()) == pytest.approx(float(error.abs().sum()), rel=1e-6)
    (gradient,) = torch.autograd.grad(total, equal)
    torch.testing.assert_close(gradient, error.sign().unsqueeze(1).expand_as(gradient) / 4)
    single = score({"name": "crps"}, predictions[:, 0].detach(), targets, valid)
    assert float(single) == pytest.approx(float(error.abs().sum()), rel=1e-6)


def test_which_spread_each_is_lowest_for() -> None:
    """Of members drawn from a normal law of the truth's centre, the fair score wants the truth's deviation, the plain one less."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(1, 1, 1, 500, 500, generator=generator)
    members = torch.randn(1, 2, 1, 1, 500, 500, generator=generator)
    widths = [0.4, 0.6, 0.8, 1.0, 1.2, 1.4]
    valid = torch.ones_like(truth, dtype=torch.bool)
    best = {}
    for alpha in (0.0, 0.95, 1.0):
        settings: dict[str, object] = {"name": "almost-fair-crps", "members": 2, "alpha": alpha}
        losses = [float(score(settings, width * members, truth, valid)) for width in widths]
        best[alpha] = widths[losses.index(min(losses))]
    assert best[1.0] == best[0.95] == 1.0 and best[0.0] <= 0.6


def test_a_sum_hands_members_to_those_that_take_them_and_their_mean_to_the_others() -> None:
    predictions, targets, valid = ensemble(3)
    terms = [{"name": "crps", "members": 3}, {"name": "l2", "weight": 0.5}]
    loss = make_loss({"name": "sum", "terms": terms}, SPEC)
    assert members_of(loss) == 3 and members_of(make_loss({"name": "l1"}, SPEC)) == 1
    total, _ = loss(predictions, targets, valid)
    alone = score({"name": "crps", "members": 3}, predictions, targets, valid)
    squared = torch.where(valid, predictions.mean(1) - targets.nan_to_num(), 0.0).square().sum()
    assert float(total.detach()) == pytest.approx(float((alone + 0.5 * squared).detach()), rel=1e-6)
    with pytest.raises(UserError, match="All terms of a loss see the same members: set their 'members' to 2 or to 3"):
        make_loss({"name": "sum", "terms": [{"name": "crps", "members": 3}, {"name": "almost-fair-crps", "members": 2}]}, SPEC)


def test_members_of_clips_stand_one_after_the_other() -> None:
    rows = torch.arange(6.0).view(6, 1, 1, 1, 1)
    assert by_member(rows, 3).shape == (2, 3, 1, 1, 1, 1) and by_member(rows, 3)[1, 0] == 3.0
    assert by_member(rows, 1) is rows


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "crps", "members": 1}, r"loss\.members is the size of the ensemble that is trained, at least 2, not 1"),
        ({"name": "almost-fair-crps", "alpha": 1.5}, r"loss\.alpha is a share from 0 to 1, not 1\.5"),
        ({"name": "crps", "sizes": [0]}, r"loss\.sizes are numbers of pixels, at least 1: not \[0\]"),
        ({"name": "crps", "alpha": 0.5}, r"no key 'loss\.alpha'"),
    ],
)
def test_bad_settings(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make_loss(settings, SPEC)
