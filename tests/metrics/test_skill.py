import math

import numpy as np
import pytest
import torch

from stpredict.frames import FrameSpec
from stpredict.metrics import RunningScore, create_scores
from stpredict.metrics.bootstrap import draw_units
from stpredict.metrics.skill import difference_from, skill_over

SPEC = FrameSpec(1, 4, 4, thresholds=(0.5, 1.0))


def run(name, prediction, truth, batch=100, seed=0, units=None):
    (score,) = create_scores([name])
    running = RunningScore(truth.shape[1], score)
    units = range(len(truth)) if units is None else units
    for start in range(0, len(truth), batch):
        here = slice(start, start + batch)
        running.add(*score(prediction[here], truth[here], SPEC), draw_units(units[here], seed))
    return running


def films(clips=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(clips, 3, 1, 4, 4, generator=generator) * 2
    noise = torch.randn(2, *truth.shape, generator=generator)
    return truth + 0.3 * noise[0], truth + 0.6 * noise[1], truth


@pytest.mark.parametrize("name", ["mse", "csi", "hss", "csi_per_lead", "fss"])
def test_skill_is_the_share_of_the_way_from_reference_to_perfect(name):
    good, bad, truth = films()
    own, other = run(name, good, truth), run(name, bad, truth)
    perfect = 0.0 if name == "mse" else 1.0
    skill = skill_over(own, other)
    assert skill.value == pytest.approx((own.mean() - other.mean()) / (perfect - other.mean()))
    assert skill.low < skill.value < skill.high < 1
    same = skill_over(other, other)
    assert same.value == same.low == same.high == 0
    assert skill_over(run(name, truth, truth), other).low == 1


def test_the_interval_is_that_of_sets_made_by_hand():
    good, bad, truth = films(12)
    own, other = run("csi", good, truth, seed=5), run("csi", bad, truth, seed=5)
    times = draw_units(range(12), seed=5).times.astype(int)
    skills, differences, skills_by_lead, differences_by_lead = [], [], [], []
    for replicate in times:
        drawn = np.repeat(np.arange(12), replicate)
        first, second = (run("csi", film[drawn], truth[drawn], units=[0] * len(drawn)).mean() for film in (good, bad))
        skills.append((first - second) / (1 - second))
        differences.append(first - second)
        first, second = (run("csi", film[drawn], truth[drawn], units=[0] * len(drawn)).per_lead() for film in (good, bad))
        skills_by_lead.append((first - second) / (1 - second))
        differences_by_lead.append(first - second)
    for found, wanted in ((skill_over(own, other), skills), (difference_from(own, other), differences)):
        assert [found.low, found.high] == pytest.approx(np.percentile(wanted, [2.5, 97.5]), rel=1e-12)
    for found, by_lead in ((skill_over(own, other), skills_by_lead), (difference_from(own, other), differences_by_lead)):
        np.testing.assert_allclose(found.per_lead_interval, np.percentile(by_lead, [2.5, 97.5], axis=0), rtol=1e-12)
    assert found.per_lead == pytest.approx(own.per_lead() - other.per_lead(), rel=1e-12)


def test_the_interval_of_a_skill_has_the_width_of_theory():
    generator = torch.Generator().manual_seed(1)
    errors = 1 + 0.2 * torch.randn(400, generator=generator)
    truth = torch.zeros(400, 1, 1, 4, 4)
    own = run("mae", errors.abs().view(-1, 1, 1, 1, 1).expand(truth.shape), truth)
    skill = skill_over(own, run("mae", truth + 2.0, truth))
    half = 1.96 * float(errors.abs().std()) / math.sqrt(400) / 2
    assert (skill.high - skill.low) / 2 == pytest.approx(half, rel=0.1)
    assert skill.value == pytest.approx(0.5, abs=0.02)


def test_a_paired_difference_is_narrower_than_what_is_compared():
    """Both err by what makes a clip hard, and one by a little more: the difference is known far better than either."""
    generator = torch.Generator().manual_seed(2)
    hardness = 1 + torch.rand(300, 1, 1, 1, 1, generator=generator)
    truth = torch.zeros(300, 1, 1, 4, 4)
    more = 0.1 + 0.01 * torch.randn(300, 1, 1, 1, 1, generator=generator)
    own, other = (run("mae", truth + error, truth) for error in (hardness, hardness + more))
    found = difference_from(own, other)
    assert found.value == pytest.approx(-float(more.mean()), rel=1e-5)
    half = 1.96 * float(more.std()) / math.sqrt(300)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.15)
    assert np.ptp(own.interval()) > 20 * (found.high - found.low)


def test_batches_change_nothing_and_seeds_do():
    good, bad, truth = films()
    first = skill_over(run("csi", good, truth), run("csi", bad, truth))
    again = skill_over(run("csi", good, truth, 7), run("csi", bad, truth, 3))
    assert [again.value, again.low, again.high] == pytest.approx([first.value, first.low, first.high], rel=1e-12)
    assert skill_over(run("csi", good, truth, seed=1), run("csi", bad, truth, seed=1)).low != first.low


def test_units_are_drawn_as_a_whole():
    good, bad, truth = films(10)
    repeated = [part.repeat_interleave(4, 0) for part in (good, bad, truth)]
    alone = skill_over(run("mse", good, truth), run("mse", bad, truth))
    groups = np.repeat(np.arange(10), 4)
    whole = skill_over(*(run("mse", film, repeated[2], units=groups) for film in repeated[:2]))
    assert [whole.value, whole.low, whole.high] == pytest.approx([alone.value, alone.low, alone.high], rel=1e-9)
    naive = skill_over(*(run("mse", film, repeated[2]) for film in repeated[:2]))
    assert naive.high - naive.low < 0.75 * (whole.high - whole.low)


def test_what_has_no_skill():
    good, bad, truth = films()
    bias = run("bias", good, truth), run("bias", bad, truth)
    assert skill_over(*bias) is None
    assert difference_from(*bias).value == pytest.approx(bias[0].mean() - bias[1].mean())
    one = skill_over(run("mse", good[:1], truth[:1]), run("mse", bad[:1], truth[:1]))
    assert math.isfinite(one.value) and math.isnan(one.low) and math.isnan(one.high)
    dry = torch.zeros_like(truth)
    empty = skill_over(run("csi", dry, dry), run("csi", dry, dry))
    assert math.isnan(empty.value) and math.isnan(empty.low)
    ratio = difference_from(run("psnr", truth, truth), run("psnr", good, truth))
    assert math.isinf(ratio.value) and math.isnan(ratio.low)
