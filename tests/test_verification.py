"""Published figures beside measured ones: measured is what the definition gives, on clips of the published split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from stpredict.data import load_data
from stpredict.errors import UserError
from stpredict.evaluation import evaluate
from stpredict.networks import create_network
from stpredict.predictor import Predictor
from stpredict.verification import Verification, verify
from stpredict.weights import import_predictor
from stpredict.weights.catalogue import CATALOGUE, Published

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


def shown(found: Verification) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(found.table())
    return captured.get()


def test_measured_is_what_the_definition_gives(there: Path) -> None:
    found = verify(there / "tiny.safetensors", there, batch_size=2, device="cpu")
    frames = np.load(there / "mnist_test_seq.npy").transpose(1, 0, 2, 3)[:, :, None].astype(np.float32) / 255.0
    predictor = import_predictor(there / "tiny.pth", patch_size=4, context=10)
    forecast = predictor.forecast(frames[:, :10], 10).astype(np.float64)
    error = forecast - frames[:, 10:]
    by_name = {figure.score: figure for figure in found.figures}
    squared, absolute = (np.mean(values, axis=(0, 1)).sum() for values in (error**2, np.abs(error)))
    assert by_name["mse"].measured == pytest.approx(squared, rel=1e-5)
    assert by_name["mae"].measured == pytest.approx(absolute, rel=1e-5)
    assert by_name["mse"].difference == pytest.approx(squared - 700.0, rel=1e-3)
    clips = load_data("moving_mnist", there, "classic")
    clips.training_split = None
    scores = evaluate(predictor, clips, scores=["mse_sum"], baselines=False, device="cpu")
    (ours,) = scores.scores.values()
    assert by_name["mse"].measured == pytest.approx(ours["mse_sum"]["mean"], rel=1e-6)
    assert (found.clips, found.of) == (5, 5)


def test_what_is_defined_otherwise_is_not_compared(there: Path) -> None:
    found = verify(there / "tiny.safetensors", there, device="cpu")
    for score in ("ssim", "psnr"):
        (figure,) = (one for one in found.figures if one.score == score)
        assert figure.published == SCORES[score] and (figure.measured, figure.difference, figure.ours) == (None, None, None)
        assert figure.differs
    table = shown(found)
    assert "tiny (convlstm) on moving_mnist classic: 5 clips, 10 + 10 frames" in table and "protocol per-pixel" in table
    assert "mse_sum" in table and "other definition: forecasts clipped to [0, 1]" in table and MOVING_MNIST.page in table


def test_some_clips_are_not_what_was_published(there: Path) -> None:
    found = verify(there / "tiny.safetensors", there, limit=2, device="cpu")
    assert (found.clips, found.of) == (2, 5) and "the first 2 of 5 clips, so not what was published" in shown(found)


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
