"""Published figures beside measured ones: measured is what the definition gives, on clips of the published split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from skimage.metrics import structural_similarity

from stpredict.errors import UserError
from stpredict.networks import create_network
from stpredict.predictor import Predictor
from stpredict.results import Scores
from stpredict.verification import Verification, verify
from stpredict.weights import import_predictor
from stpredict.weights.catalogue import CATALOGUE, Published
from stpredict.weights.published import published_for

MOVING_MNIST = CATALOGUE["mmnist_convlstm_one_ep200"].benchmark
SCORES = {"mse": 700.0, "mae": 1800.0, "ssim": 0.1, "psnr": 9.0}
ENTRY = Published("tiny", MOVING_MNIST, "convlstm", 0.004, 1, {"patch_size": 4, "maths": "legacy"}, SCORES)


def save_convlstm(path: Path, channels: int = 1) -> None:
    """Write weights of a tiny ConvLSTM as OpenSTL names them."""
    torch.manual_seed(0)
    ours = create_network("convlstm", channels=channels, hidden=[4], kernel_size=3, patch_size=4, frame_size=(64, 64))
    named = {
        name.replace("cells.0.", "cell_list.0.conv_").replace("readout", "conv_last"): value for name, value in ours.named_parameters()
    }
    torch.save({name: torch.randn_like(value) * 0.3 for name, value in named.items()}, path)


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a predictor that was imported from the catalogue, and with the published test clips."""
    monkeypatch.setitem(CATALOGUE, "tiny", ENTRY)
    save_convlstm(tmp_path / "tiny.pth")
    import_predictor(tmp_path / "tiny.pth", published=ENTRY).save(tmp_path / "tiny.safetensors")
    clips = np.random.default_rng(0).integers(0, 256, (20, 5, 64, 64), np.uint8)
    np.save(tmp_path / "mnist_test_seq.npy", clips)
    return tmp_path


def shown_table(found: Verification) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(found.table())
    return " ".join(captured.get().split())  # the title is folded


def test_measured_is_what_the_definition_gives(there: Path) -> None:
    found = verify(there / "tiny.safetensors", there, batch_size=2, device="cpu")
    frames = np.load(there / "mnist_test_seq.npy").transpose(1, 0, 2, 3)[:, :, None].astype(np.float32) / 255.0
    predictor = import_predictor(there / "tiny.pth", patch_size=4, context=10)
    forecast = predictor.forecast(frames[:, :10], 10).astype(np.float64)
    truth = frames[:, 10:].astype(np.float64)
    shown = np.clip(forecast, 0, 1)
    images = np.stack([shown, truth], 2).reshape(-1, 2, 64, 64)
    wanted = {
        "mse": np.mean((forecast - truth) ** 2, axis=(0, 1)).sum(),
        "mae": np.mean(np.abs(forecast - truth), axis=(0, 1)).sum(),
        "ssim": np.mean([structural_similarity(*pair, data_range=2) for pair in images]),
        "psnr": np.mean(-10 * np.log10(np.mean((shown - truth) ** 2, axis=(2, 3, 4)))),
    }
    by_name = {figure.score: figure for figure in found.figures}
    assert {name: figure.measured for name, figure in by_name.items()} == pytest.approx(wanted, rel=1e-5)
    assert {name: figure.ours for name, figure in by_name.items()} == {
        "mse": "mse_sum",
        "mae": "mae_sum",
        "ssim": "ssim_range2",
        "psnr": "psnr",
    }
    assert by_name["mse"].difference == pytest.approx(wanted["mse"] - 700.0, rel=1e-3)
    assert (found.clips, found.of) == (5, 5)
    table = shown_table(found)
    assert "tiny (convlstm) on moving_mnist classic: 5 clips, 10 + 10 frames" in table and "protocol openstl" in table
    assert "ssim_range2" in table and MOVING_MNIST.page[:40] in table


def test_what_cannot_be_measured_says_why(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(there))
    monkeypatch.setitem(CATALOGUE, "tiny", replace(ENTRY, scores={"mae": 1800.0, "lpips": 0.1}))
    found = verify(there / "tiny.safetensors", there, device="cpu", limit=1)
    mae, lpips = found.figures
    assert mae.measured is not None and mae.reason == ""
    assert (lpips.published, lpips.measured, lpips.difference, lpips.ours) == (0.1, None, None, None)
    assert lpips.reason.startswith("LPIPS needs AlexNet's weights") and "not measured" in shown_table(found)


SCORED = {"mse_sum": {"mean": 1.0}, "ssim_range2": {"mean": 0.5}, "psnr": {"mean": 20.0}}


def scores_of(**changes: object) -> Scores:
    facts = {"protocol": "openstl", "card": "moving_mnist", "split": "classic", "hash": "", "clips": 10_000, "context": 10, "horizon": 10}
    return Scores(**{**facts, "units": "1", "scores": {"run": SCORED}, **changes})


def test_published_figures_stand_beside_the_very_clips_that_they_are_for() -> None:
    found = published_for(scores_of())
    assert len(found) == sum(entry.benchmark is MOVING_MNIST for entry in CATALOGUE.values()) > 5
    wanted = {"mse_sum": 29.80, "ssim_range2": 0.9288, "psnr": 22.10}  # and no mae_sum, which was not measured
    assert found["convlstm, 200 epochs (mmnist_convlstm_one_ep200)"] == {"page": MOVING_MNIST.page, "scores": wanted}
    other = {"protocol": "per-pixel", "card": "moving_digits", "split": "generated", "clips": 9_999, "context": 9, "horizon": 20}
    assert [published_for(scores_of(**{name: value})) for name, value in other.items()] == [{}] * len(other)
    assert published_for(scores_of(scores={"run": {"mse": {"mean": 1.0}}})) == {}


def test_where_the_catalogue_does_not_say_how_many_clips_there_are_the_split_does() -> None:
    taxibj = {"card": "taxibj", "split": "test", "context": 4, "horizon": 4, "clips": 500}
    assert published_for(scores_of(**taxibj)) == {} == published_for(scores_of(**taxibj), 501)
    found = published_for(scores_of(**taxibj), 500)
    assert found["predrnn, 50 epochs (taxibj_predrnn_cos_ep50)"]["scores"] == {"mse_sum": 0.3194, "ssim_range2": 0.9838, "psnr": 39.51}


def test_some_clips_are_not_what_was_published(there: Path) -> None:
    found = verify(there / "tiny.safetensors", there, limit=2, device="cpu")
    assert (found.clips, found.of) == (2, 5) and "the first 2 of 5 clips, so not what was published" in shown_table(found)


def test_provenance_names_the_entry_and_what_it_told(there: Path) -> None:
    predictor = import_predictor(there / "tiny.pth", published=ENTRY, horizon=10)
    assert predictor.provenance["catalogue"] == "tiny"
    told = predictor.provenance["facts"]
    assert told["patch_size"] == "4 (catalogue)" and told["context"] == "10 (catalogue)" and told["horizon"] == "10 (given)"
    assert predictor.network_settings["hidden_from"] == "candidate" and (predictor.context, predictor.horizon) == (10, 10)


def test_facts_and_weights_that_contradict_the_catalogue(there: Path) -> None:
    with pytest.raises(UserError, match=r"maths fixed \(given\) contradicts maths legacy \(catalogue\)"):
        import_predictor(there / "tiny.pth", published=ENTRY, maths="fixed")
    other = Published("other", MOVING_MNIST, "predrnn", 0.004, 1, {"patch_size": 4})
    with pytest.raises(UserError, match="weights of a 'convlstm', not of 'predrnn' as other does"):
        import_predictor(there / "tiny.pth", published=other)
    save_convlstm(there / "coloured.pth", channels=3)
    with pytest.raises(UserError, match="contradicts"):
        import_predictor(there / "coloured.pth", published=ENTRY)


def test_data_that_are_not_at_hand(there: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="for the split 'classic' of 'moving_mnist': give its folder by --root FOLDER, with mnist_test_seq"):
        verify(there / "tiny.safetensors")
    (tmp_path / "mnist_test_seq.npy").unlink()
    with pytest.raises(UserError, match=r"whose folder must hold mnist_test_seq\.npy: The split 'classic' is the published file"):
        verify(there / "tiny.safetensors", tmp_path)


def test_what_cannot_be_verified(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = import_predictor(there / "tiny.pth", patch_size=4, context=10)
    assert isinstance(predictor, Predictor)
    with pytest.raises(UserError, match="does not say which published weights it is"):
        verify(predictor, there)
    with pytest.raises(UserError, match="'persistence' is no trained predictor"):
        verify("persistence", there)
    fashion = CATALOGUE["fmnist_convlstm_one_ep200"].benchmark
    predictor.provenance["catalogue"] = "tiny"
    monkeypatch.setitem(CATALOGUE, "tiny", Published("tiny", fashion, "convlstm", 0.004, 1))
    with pytest.raises(UserError, match="for Moving FashionMNIST, for which there is no card here"):
        verify(predictor, there)
