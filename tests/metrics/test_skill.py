import math

import numpy as np
import pytest
import torch

from stpredict.frames import FrameSpec
from stpredict.metrics import RunningScore, create_scores
from stpredict.metrics import skill as skills
from stpredict.metrics.skill import skill_over

SPEC = FrameSpec(1, 4, 4, thresholds=(0.5, 1.0))


def run(name, prediction, truth, batch=100):
    (score,) = create_scores([name])
    running = RunningScore(truth.shape[1], score, keep_clips=True)
    for some, true in zip(torch.split(prediction, batch), torch.split(truth, batch), strict=True):
        running.add(*score(some, true, SPEC))
    return running


def films(clips=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(clips, 3, 1, 4, 4, generator=generator) * 2
    noise = torch.randn(2, *truth.shape, generator=generator)
    return truth + 0.3 * noise[0], truth + 0.6 * noise[1], truth


@pytest.mark.parametrize("name", ["mse", "csi", "hss", "csi_per_lead", "fss"])
def test_skill_is_the_share_of_the_way_from_baseline_to_perfect(name):
    good, bad, truth = films()
    own, other = run(name, good, truth), run(name, bad, truth)
    perfect = 0.0 if name == "mse" else 1.0
    skill = skill_over(own, other)
    assert skill.value == pytest.approx((own.mean() - other.mean()) / (perfect - other.mean()))
    assert skill.low < skill.value < skill.high < 1
    assert skill_over(other, other).value == 0 == skill_over(other, other).low == skill_over(other, other).high
    assert skill_over(run(name, truth, truth), other).low == 1


def test_the_interval_is_that_of_sets_drawn_by_hand(monkeypatch):
    monkeypatch.setattr(skills, "REPLICATES", 100)
    good, bad, truth = films(12)
    skill = skill_over(run("csi", good, truth), run("csi", bad, truth), seed=5)
    values = []
    for replicate in range(100):
        drawn = (skills.draws.uniform(5, "bootstrap", 0, replicate, 12) * 12).astype(int)
        own, other = (run("csi", films[drawn], truth[drawn]).mean() for films in (good, bad))
        values.append((own - other) / (1 - other))
    assert [skill.low, skill.high] == pytest.approx(np.percentile(values, [2.5, 97.5]), rel=1e-9)


def test_the_interval_of_a_mean_has_the_width_of_theory():
    generator = torch.Generator().manual_seed(1)
    errors = 1 + 0.2 * torch.randn(400, generator=generator)
    truth = torch.zeros(400, 1, 1, 4, 4)
    own = run("mae", errors.abs().view(-1, 1, 1, 1, 1).expand(truth.shape), truth)
    skill = skill_over(own, run("mae", truth + 2.0, truth))
    half = 1.96 * float(errors.abs().std()) / math.sqrt(400) / 2
    assert (skill.high - skill.low) / 2 == pytest.approx(half, rel=0.1)
    assert skill.value == pytest.approx(0.5, abs=0.02)


def test_batches_and_repetition_change_nothing_and_seeds_do():
    good, bad, truth = films()
    first = skill_over(run("csi", good, truth), run("csi", bad, truth))
    assert skill_over(run("csi", good, truth, 7), run("csi", bad, truth, 3)) == first
    assert skill_over(run("csi", good, truth), run("csi", bad, truth), seed=1).low != first.low


def test_units_are_drawn_as_a_whole():
    good, bad, truth = films(10)
    repeated = [part.repeat_interleave(4, 0) for part in (good, bad, truth)]
    alone = skill_over(run("mse", good, truth), run("mse", bad, truth))
    groups = np.repeat(np.arange(10), 4)
    whole = skill_over(run("mse", repeated[0], repeated[2]), run("mse", repeated[1], repeated[2]), groups)
    assert [whole.value, whole.low, whole.high] == pytest.approx([alone.value, alone.low, alone.high], rel=1e-9)
    naive = skill_over(run("mse", repeated[0], repeated[2]), run("mse", repeated[1], repeated[2]))
    assert naive.high - naive.low < 0.75 * (whole.high - whole.low)


def test_what_has_no_skill():
    good, bad, truth = films()
    assert skill_over(run("bias", good, truth), run("bias", bad, truth)) is None
    one = skill_over(run("mse", good[:1], truth[:1]), run("mse", bad[:1], truth[:1]))
    assert math.isfinite(one.value) and math.isnan(one.low) and math.isnan(one.high)
    dry = torch.zeros_like(truth)
    empty = skill_over(run("csi", dry, dry), run("csi", dry, dry))
    assert math.isnan(empty.value) and math.isnan(empty.low)


def test_merged_parts_are_drawn_from_as_one():
    good, bad, truth = films()
    merged = []
    for forecast in (good, bad):
        first, second = run("csi", forecast[:25], truth[:25]), run("csi", forecast[25:], truth[25:])
        first.merge(second)
        merged.append(first)
    assert skill_over(*merged) == skill_over(run("csi", good, truth), run("csi", bad, truth))
