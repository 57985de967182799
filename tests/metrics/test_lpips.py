"""LPIPS with AlexNet weights made here, against torchmetrics with the same ones; the weights of the channels are the published ones."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch
import torchmetrics.functional.image.lpips as oracle
from torch import Tensor, nn

from stpredict.errors import UserError
from stpredict.frames import FrameSpec, Transform
from stpredict.metrics import create_scores, lpips
from stpredict.metrics.lpips import PerceptualDistance, UnscaledPerceptualDistance, find_weights


def alexnet() -> nn.Sequential:
    """Return what torchvision calls the features of AlexNet, with weights of its own."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    ]
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a torch cache with AlexNet's file in it."""
    folder = tmp_path_factory.mktemp("hub")
    state = {f"features.{name}": value for name, value in alexnet().state_dict().items()}
    state["classifier.1.weight"] = torch.zeros(2, 3)
    (folder / "checkpoints").mkdir()
    torch.save(state, folder / "made.pth")
    digest = hashlib.sha256((folder / "made.pth").read_bytes()).hexdigest()
    (folder / "made.pth").rename(folder / "checkpoints" / f"alexnet-owt-{digest[:8]}.pth")
    return folder


@pytest.fixture
def cache(backbone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (file,) = (backbone / "checkpoints").iterdir()
    monkeypatch.setattr(lpips, "BACKBONE", file.name)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(backbone))
    return backbone


def films(channels: int, high: float = 1.0, low: float = 0.0) -> tuple[Tensor, Tensor, FrameSpec]:
    truth, other = (torch.rand(2, 2, channels, 40, 52, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    prediction = 0.6 * truth + 0.4 * other
    spec = FrameSpec(channels, 40, 52, transform=Transform(low=low, high=high), fill=low)
    return prediction * (high - low) + low, truth * (high - low) + low, spec


def torchmetrics_says(first: Tensor, second: Tensor, rescale: bool, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the distance in float64 of images ``(N, C, H, W)`` in [0, 1]."""
    monkeypatch.setattr(oracle, "_get_tv_model_features", lambda *_: alexnet())
    images = (image.double().expand(-1, 3, -1, -1) for image in (first, second))
    found = oracle.learned_perceptual_image_patch_similarity(*images, net_type="alex", reduction="none", normalize=rescale)
    return found.tolist()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("kind", "rescale"), [(PerceptualDistance, True), (UnscaledPerceptualDistance, False)])
def test_equals_torchmetrics(
    kind: type[PerceptualDistance], rescale: bool, channels: int, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prediction, truth, spec = films(channels)
    total, weight = kind()(prediction, truth, spec)
    wanted = torchmetrics_says(prediction.flatten(0, 1), truth.flatten(0, 1), rescale, monkeypatch)
    assert min(wanted) > 0.005 and (weight == 1).all() and total.dtype == torch.float64
    assert total.flatten().tolist() == pytest.approx(wanted, rel=1e-4)
    scaled_to = {}
    for low, high in ((0.0, 255.0), (-10.0, 60.0)):
        scaled_to[low] = kind()(*films(channels, high, low))[0]
        torch.testing.assert_close(scaled_to[low], total, rtol=1e-4, atol=1e-7)


def test_the_two_differ_and_equal_frames_have_no_distance(cache: Path) -> None:
    prediction, truth, spec = films(1)
    first, second = create_scores(["lpips", "lpips_unscaled"])
    assert (first.name, second.name) == ("lpips", "lpips_unscaled")
    assert abs(first(prediction, truth, spec)[0] / second(prediction, truth, spec)[0] - 1).min() > 0.01
    for score in (first, second):
        assert (score(truth, truth, spec)[0] == 0).all()
        torch.testing.assert_close(score(prediction, truth, spec)[0], score(truth, prediction, spec)[0])
    assert "torchvision" not in sys.modules or importlib.util.find_spec("torchvision") is not None
    flat = torch.full_like(truth, 0.3)
    assert torch.isfinite(first(flat, truth, spec)[0]).all() and (first(flat, flat, spec)[0] == 0).all()


def test_missing_pixels_are_filled_in_both_and_nan_spoils(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prediction, truth, spec = films(1)
    missing = torch.zeros(truth.shape, dtype=torch.bool)
    missing[..., :11, 30:] = True
    missing[1, 1] = True
    score = PerceptualDistance()
    total, weight = score(torch.where(missing, math.nan, prediction), torch.where(missing, math.nan, truth), spec)
    filled, _ = score(*(torch.where(missing, 0.0, frames) for frames in (prediction, truth)), spec)
    torch.testing.assert_close(total[0], filled[0])
    assert (total[1, 1], weight[1, 1]) == (0, 0) and weight.sum() == 3
    prediction[0, 1, 0, -1, -1] = math.nan
    total, weight = score(prediction, truth, spec)
    assert torch.isnan(total).tolist() == [[False, True], [False, False]] and (weight == 1).all()
    monkeypatch.setattr(lpips, "PIXELS_AT_ONCE", 1)
    torch.testing.assert_close(score(prediction, truth, spec)[0], total, equal_nan=True)


def test_frames_that_the_network_cannot_see(cache: Path) -> None:
    for shape in ((1, 1, 2, 40, 40), (1, 1, 1, 30, 64)):
        with pytest.raises(UserError, match=f"at least 31 x 31 pixels, not {shape[2]} of {shape[3]} x {shape[4]}: leave 'lpips' out"):
            PerceptualDistance()(torch.zeros(shape), torch.zeros(shape), FrameSpec(*shape[2:]))
    smallest = torch.rand(1, 1, 1, 31, 31)
    assert torch.isfinite(PerceptualDistance()(smallest, 1 - smallest, FrameSpec(1, 31, 31))[0]).all()


def test_what_is_missing_is_said(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_weights()[0].parent == cache / "checkpoints"
    monkeypatch.setattr(lpips, "LINEAR", {"no_such_package": "alex.pth", "torchmetrics": "no/such/file.pth"})
    with pytest.raises(UserError, match=r"which the package 'lpips' holds: pip install 'stpredict\[vision\]'"):
        create_scores(["lpips"])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=rf"put {lpips.BACKBONE}, from https://download\.pytorch\.org/\S+, into {tmp_path}/checkpoints"):
        create_scores(["lpips"])


def test_files_that_are_not_what_their_name_says(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints").mkdir()
    wrong = tmp_path / "checkpoints" / lpips.BACKBONE
    torch.save({"other": torch.zeros(1)}, wrong)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"its SHA-256 begins with \w{8}, not \w{8}; remove it and fetch it again"):
        create_scores(["lpips"])
    digest = hashlib.sha256(wrong.read_bytes()).hexdigest()[:8]
    wrong.rename(wrong.with_name(f"alexnet-owt-{digest}.pth"))
    monkeypatch.setattr(lpips, "BACKBONE", f"alexnet-owt-{digest}.pth")
    with pytest.raises(UserError, match=r"is not the file that LPIPS needs: it has no 'features\.0\.weight'"):
        create_scores(["lpips"])


def test_the_file_that_is_asked_for_is_torchvisions() -> None:
    assert lpips.BACKBONE == "alexnet-owt-7be5be79.pth"
