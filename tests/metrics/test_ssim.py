import math

import hypothesis.extra.numpy
import numpy as np
import pytest
import skimage.metrics
import torch
import torchmetrics.functional.image
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stpredict.errors import UserError
from stpredict.frames import FrameSpec, Transform
from stpredict.metrics import ssim
from stpredict.metrics.ssim import GAUSSIAN, DoubleRangeSimilarity, StructuralSimilarity, UniformSimilarity


def scikit_image(first: torch.Tensor, second: torch.Tensor, value_range: float, full: bool = False) -> NDArray[np.float64]:
    """Return the index of each channel of one frame, or its map."""
    answers = [
        skimage.metrics.structural_similarity(
            one.double().numpy(),
            other.double().numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=value_range,
            full=True,
        )[int(full)]
        for one, other in zip(first, second, strict=True)
    ]
    return np.stack(answers)


def digits(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Return films in [0, 1] with flat black, flat white and smooth edges, as Moving MNIST has them."""
    generator = torch.Generator().manual_seed(seed)
    blobs = torch.rand((*shape[:-2], shape[-2] // 8, shape[-1] // 8), generator=generator)
    grown = torch.nn.functional.interpolate(blobs.flatten(0, -3)[:, None], shape[-2:], mode="bilinear")[:, 0].reshape(shape)
    return (4 * grown - 2).clamp(0, 1)


def test_the_window_is_the_gaussian_of_the_paper() -> None:
    weights = GAUSSIAN.weights
    assert len(weights) == 11 and sum(weights) == pytest.approx(1.0)
    assert weights[5] / weights[2] == pytest.approx(math.exp(0.5 * (3 / 1.5) ** 2))
    image = torch.zeros(1, 21, 23)
    image[0, 10, 11] = 1.0
    torch.testing.assert_close(GAUSSIAN.smooth(image)[0, :, 1:-1], torch.outer(torch.tensor(weights), torch.tensor(weights)))


@pytest.mark.parametrize(
    ("transform", "shape"),
    [
        (Transform(), (2, 3, 1, 64, 64)),
        (Transform(high=255.0), (2, 2, 3, 40, 56)),
        (Transform("log", high=100.0), (1, 3, 1, 32, 128)),
        (Transform(low=230.0, high=310.0), (2, 2, 1, 48, 48)),
        (Transform(low=-1.0, high=1.0), (1, 1, 2, 11, 11)),
    ],
)
def test_equals_scikit_image_per_frame(transform: Transform, shape: tuple[int, ...]) -> None:
    spec = FrameSpec(*shape[2:], transform=transform)
    truth = digits(0, shape) * spec.value_range + transform.low
    prediction = (0.8 * digits(0, shape) + 0.2 * digits(1, shape)) * spec.value_range + transform.low
    total, weight = StructuralSimilarity()(prediction, truth, spec)
    wanted = [[scikit_image(prediction[b, t], truth[b, t], spec.value_range).mean() for t in range(shape[1])] for b in range(shape[0])]
    assert np.min(wanted) > 0.05 and np.max(wanted) < 0.95
    np.testing.assert_allclose(total, wanted, rtol=0, atol=1e-5 if shape[-1] == 11 else 1e-6)  # one window alone averages no rounding out
    assert (weight == 1).all()


def test_equals_torchmetrics_but_for_its_treatment_of_the_edge() -> None:
    truth, prediction = digits(0, (2, 1, 1, 40, 40)), digits(1, (2, 1, 1, 40, 40))
    total, _ = StructuralSimilarity()(prediction, truth, FrameSpec(1, 40, 40))
    _, full = torchmetrics.functional.image.structural_similarity_index_measure(
        prediction[:, 0], truth[:, 0], data_range=1.0, reduction="none", return_full_image=True
    )
    np.testing.assert_allclose(total[:, 0], full[:, 0, 5:-5, 5:-5].mean((1, 2)), atol=1e-5)


def test_other_kinds_of_numbers_and_gradients_do_not_matter() -> None:
    truth, prediction, spec = digits(0, (1, 2, 1, 24, 24)), digits(1, (1, 2, 1, 24, 24)), FrameSpec(1, 24, 24)
    total, _ = StructuralSimilarity()(prediction, truth, spec)
    for some, true in ((prediction.double(), truth), (prediction, truth.double()), (prediction.requires_grad_(), truth)):
        found, _ = StructuralSimilarity()(some, true, spec)
        torch.testing.assert_close(found, total, rtol=0, atol=1e-6)
        assert not found.requires_grad


def test_a_film_equals_itself() -> None:
    truth = digits(3, (1, 2, 1, 32, 32))
    total, _ = StructuralSimilarity()(truth, truth, FrameSpec(1, 32, 32))
    np.testing.assert_allclose(total, np.ones((1, 2)), atol=1e-6)


def test_missing_pixels_are_filled_in_both_and_windows_count_by_their_centre() -> None:
    spec = FrameSpec(2, 32, 40, transform=Transform(low=-10.0, high=60.0), fill=-10.0)
    truth = digits(0, (1, 1, 2, 32, 40)) * 70 - 10
    prediction = digits(1, (1, 1, 2, 32, 40)) * 70 - 10
    missing = torch.zeros(truth.shape, dtype=torch.bool)
    missing[..., :14, :] = True
    missing[0, 0, 1, :, 25:] = True
    total, weight = StructuralSimilarity()(prediction, torch.where(missing, math.nan, truth), spec)

    filled = [torch.where(missing, -10.0, frames)[0, 0] for frames in (prediction, truth)]
    inner = scikit_image(*filled, value_range=70.0, full=True)[:, 5:-5, 5:-5]
    centres = ~missing[0, 0, :, 5:-5, 5:-5].numpy()
    assert float(total[0, 0]) == pytest.approx(inner[centres].mean(), abs=2e-6)
    assert weight[0, 0] == 1


def test_a_frame_valid_only_near_its_edge_has_no_window() -> None:
    truth = torch.full((1, 1, 1, 20, 20), math.nan)
    truth[..., 0, 0] = 0.5
    total, weight = StructuralSimilarity()(torch.zeros(1, 1, 1, 20, 20), truth, FrameSpec(1, 20, 20))
    assert weight[0, 0] == 0 and total[0, 0] == 0
    total, weight = StructuralSimilarity()(torch.full((1, 1, 1, 20, 20), math.nan), truth, FrameSpec(1, 20, 20))
    assert weight[0, 0] == 1 and torch.isnan(total[0, 0])


@pytest.mark.parametrize("pixels", [4 * 24 * 24, 400])
@pytest.mark.parametrize("missing", [False, True])
def test_working_in_parts_changes_nothing(pixels: int, missing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, prediction, spec = digits(0, (3, 5, 1, 24, 24)), digits(1, (3, 5, 1, 24, 24)), FrameSpec(1, 24, 24)
    if missing:
        truth[1, :, :, 7:9, 3:20] = math.nan
    for score in (StructuralSimilarity(), UniformSimilarity()):
        monkeypatch.setattr(ssim, "PIXELS_AT_ONCE", 1 << 15)
        whole, _ = score(prediction, truth, spec)
        monkeypatch.setattr(ssim, "PIXELS_AT_ONCE", pixels)
        parts, _ = score(prediction, truth, spec)
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-7)


def uniform(first: torch.Tensor, second: torch.Tensor, value_range: float, full: bool = False) -> NDArray[np.float64]:
    """Return scikit-image's default index of each channel of one frame, or its map."""
    pairs = zip(first.double().numpy(), second.double().numpy(), strict=True)
    return np.stack([skimage.metrics.structural_similarity(*pair, data_range=value_range, full=True)[int(full)] for pair in pairs])


@pytest.mark.parametrize(("score", "ranges"), [(UniformSimilarity(), 1.0), (DoubleRangeSimilarity(), 2.0)])
@pytest.mark.parametrize(
    ("transform", "shape"),
    [
        (Transform(), (2, 3, 1, 64, 64)),
        (Transform(high=255.0), (2, 2, 3, 40, 56)),
        (Transform(low=230.0, high=310.0), (2, 2, 1, 48, 48)),
        (Transform(low=-1.0, high=1.0), (1, 1, 2, 9, 13)),
    ],
)
def test_the_uniform_window_equals_scikit_images_default(
    score: StructuralSimilarity, ranges: float, transform: Transform, shape: tuple[int, ...]
) -> None:
    spec = FrameSpec(*shape[2:], transform=transform)
    truth, other = (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    truth[..., : shape[-1] // 2] = 0.25
    prediction, truth = ((0.7 * truth + 0.3 * film) * spec.value_range + transform.low for film in (other, truth))
    total, weight = score(prediction, truth, spec)
    wanted = [[uniform(prediction[b, t], truth[b, t], ranges * spec.value_range).mean() for t in range(shape[1])] for b in range(shape[0])]
    assert np.max(wanted) < 0.97
    np.testing.assert_allclose(total, wanted, rtol=0, atol=1e-6)
    assert (weight == 1).all()


def test_missing_pixels_of_the_uniform_window() -> None:
    spec = FrameSpec(1, 20, 24, fill=0.5)
    truth, prediction = digits(0, (1, 1, 1, 16, 24)), digits(1, (1, 1, 1, 16, 24))
    missing = torch.zeros(truth.shape, dtype=torch.bool)
    missing[..., :9, :5] = True
    total, _ = UniformSimilarity()(prediction, torch.where(missing, math.nan, truth), spec)
    inner = uniform(*(torch.where(missing, 0.5, frames)[0, 0] for frames in (prediction, truth)), 1.0, full=True)[:, 3:-3, 3:-3]
    assert float(total[0, 0]) == pytest.approx(inner[~missing[0, 0, :, 3:-3, 3:-3].numpy()].mean(), abs=1e-6)


@given(
    films=hypothesis.extra.numpy.arrays(np.float32, (2, 1, 1, 12, 13), elements=st.floats(0, 1, width=32)),
    score=st.sampled_from([StructuralSimilarity(), UniformSimilarity(), DoubleRangeSimilarity()]),
)
def test_the_index_is_symmetric_at_most_1_and_1_of_equal_frames(films: NDArray[np.float32], score: StructuralSimilarity) -> None:
    first, second = torch.from_numpy(films)[:, None].unbind()
    spec = FrameSpec(1, 12, 13)
    (forth, _), (back, _), (same, _) = (score(*pair, spec) for pair in ((first, second), (second, first), (first, first)))
    assert float(forth) == pytest.approx(float(back), abs=1e-5) and -1 - 1e-5 <= float(forth) <= 1 + 1e-5
    assert float(same) == pytest.approx(1.0, abs=1e-6)


def test_frames_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(UserError, match="7 x 7 pixels, not 6 x 64: leave 'ssim_range2' out"):
        DoubleRangeSimilarity()(torch.zeros(1, 1, 1, 6, 64), torch.zeros(1, 1, 1, 6, 64), FrameSpec(1, 6, 64))
    with pytest.raises(UserError, match="11 x 11 pixels, not 10 x 64"):
        StructuralSimilarity()(torch.zeros(1, 1, 1, 10, 64), torch.zeros(1, 1, 1, 10, 64), FrameSpec(1, 10, 64))
