import math

import numpy as np
import pytest
import torch

from stpredict.frames import FrameSpec
from stpredict.metrics import RunningScore
from stpredict.metrics.ranks import RankHistogram

SPEC = FrameSpec(1, 2, 3)


def run(prediction, truth, spec=SPEC):
    running = RunningScore(truth.shape[1], RankHistogram())
    running.add(*RankHistogram()(prediction, truth, spec))
    return running


def test_ranks_by_hand_with_ties_shared_evenly():
    members = torch.tensor([1.0, 2.0, 2.0]).view(1, 3, 1, 1, 1, 1).expand(1, 3, 1, 1, 2, 3)
    truth = torch.tensor([[0.0, 1.5, 2.0], [9.0, 1.0, math.nan]]).view(1, 1, 1, 2, 3)
    running = run(members, truth)
    # 0: rank 0; 1.5: rank 1; 2: ranks 1, 2, 3; 9: rank 3; 1: ranks 0, 1
    wanted = np.array([1 + 1 / 2, 1 + 1 / 3 + 1 / 2, 1 / 3, 1 / 3 + 1]) / 5
    np.testing.assert_allclose(running.parts(), wanted)
    assert running.mean() == pytest.approx(abs(wanted - 1 / 4).sum())


def test_dry_pixels_count_nowhere_and_what_is_dry_is_equal():
    members = torch.tensor([[0.0, 0.1], [0.05, 3.0]]).view(1, 2, 1, 1, 1, 2)
    truth = torch.tensor([0.09, 0.0]).view(1, 1, 1, 1, 2)
    running = run(members, truth, FrameSpec(1, 1, 2, thresholds=(0.1, 5.0)))
    # the first pixel is dry; in the second the truth is dry and both members are wet
    np.testing.assert_allclose(running.parts(), [1, 0, 0])
    members[0, 0, 0, 0, 0, 1] = 0.05
    np.testing.assert_allclose(run(members, truth, FrameSpec(1, 1, 2, thresholds=(0.1,))).parts(), [0.5, 0.5, 0])


def test_a_reliable_ensemble_is_flat_and_one_too_narrow_is_not():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(4, 6, 2, 1, 60, 60, generator=generator)
    reliable = run(draws[:, 1:], draws[:, 0])
    assert reliable.parts().sum() == pytest.approx(1)
    np.testing.assert_allclose(reliable.parts(), 1 / 6, atol=0.01)
    narrow = run(draws[:, 1:] * 0.3, draws[:, 0])
    assert narrow.parts()[0] > 0.3 < narrow.parts()[-1] and narrow.mean() > 20 * reliable.mean()


def test_equals_pysteps_where_nothing_is_equal(waves):
    random = np.random.default_rng(0).random((6, 20, 24))
    ensscores = pytest.importorskip("pysteps.verification.ensscores")
    wanted = ensscores.rankhist(random[:5], random[5])
    prediction, truth = torch.from_numpy(random[:5]).view(1, 5, 1, 1, 20, 24), torch.from_numpy(random[5]).view(1, 1, 1, 20, 24)
    np.testing.assert_allclose(run(prediction, truth).parts(), wanted, atol=1e-12)


def test_a_missing_member_spoils_its_frame_alone():
    prediction, truth = torch.rand(2, 3, 2, 1, 4, 4), torch.rand(2, 2, 1, 4, 4)
    prediction[1, 0, 1, 0, 0, 0] = math.nan
    assert np.isnan(run(prediction, truth).per_lead()).tolist() == [False, True]
    truth[1, 1, 0, 0, 0] = math.nan
    assert np.isfinite(run(prediction, truth).per_lead()).all()
