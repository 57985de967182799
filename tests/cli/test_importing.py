"""``stpredict import``: what it says, what it writes, and what it refuses without writing anything."""

from __future__ import annotations

import os
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from stpredict.cli.main import main
from stpredict.networks import create_network
from stpredict.predictor import read_header
from stpredict.weights import import_predictor
from stpredict.weights.catalogue import CATALOGUE, Published
from stpredict.weights.facts import EXPLAINED

GOLDENS = Path(__file__).resolve().parents[2] / ".." / "shared" / "goldens"
ENTRY = Published(
    "tiny_one_ep1",
    CATALOGUE["mmnist_convlstm_one_ep200"].benchmark,
    "convlstm",
    0.004,
    1,
    {"patch_size": 4, "maths": "legacy"},
    {"mse": 700.0, "psnr": 9.0},
)
WHOLE = "--patch-size 4 --context 10"


def state(channels: int = 1) -> dict[str, torch.Tensor]:
    """Return weights of a tiny ConvLSTM as OpenSTL names them."""
    torch.manual_seed(0)
    ours = create_network("convlstm", channels=channels, hidden=[4], kernel_size=3, patch_size=4, frame_size=(64, 64))
    named = {
        name.replace("cells.0.", "cell_list.0.conv_").replace("readout", "conv_last"): value for name, value in ours.named_parameters()
    }
    return {name: value.detach().clone() for name, value in named.items()}


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a checkpoint, and a catalogue that knows it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STPREDICT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(CATALOGUE, ENTRY.name, ENTRY)
    torch.save(state(), "model.pth")
    return tmp_path


@pytest.fixture
def mirror(there: Path) -> Iterator[str]:
    """The address of a server that has the file of the catalogue."""
    folder = there / "served" / ENTRY.benchmark.tag
    folder.mkdir(parents=True)
    torch.save(state(), folder / ENTRY.file)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(there / "served"))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_it_says_what_it_recognised(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"import model.pth {WHOLE} --horizon 7 --out made.safetensors".split()) == 0
    told = capsys.readouterr().out
    for line in (
        "source      openstl\n",
        "network     convlstm (hidden [4], kernel_size 3, patch_size 4, hidden_from candidate)\n",
        "channels 1 (weights)\n",
        "context 10 (given)\n",
        "maths legacy (by rule)\n",
        "horizon 7 (given)\n",
        f"parameters  {sum(value.numel() for value in state().values()):,}\n",
        "written     made.safetensors\n",
    ):
        assert line in told
    header = read_header(there / "made.safetensors")
    assert header["horizon"] == 7 and header["provenance"]["sha256"].keys() == {"model.pth"}


def test_facts_by_either_spelling(there: Path) -> None:
    """Each fact is an option, with a dash or as it is called; they mean the same."""
    values = {"maths": "fixed", "memory": "updated", "weights": "raw", "context": "10", "stride": "1", "channels": "1", "patch_size": "4"}
    values |= {"horizon": "3", "height": "32", "width": "40"}
    assert values.keys() == EXPLAINED.keys()
    for out, between in (("a.safetensors", "_"), ("b.safetensors", "-")):
        given = [word for name, value in values.items() for word in (f"--{name.replace('_', between)}", value)]
        assert main(["import", "model.pth", *given, "--out", out]) == 0
    facts = [read_header(there / out)["provenance"]["facts"] for out in ("a.safetensors", "b.safetensors")]
    assert facts[0] == facts[1] == {name: f"{value} (given)" for name, value in sorted(values.items())}


def test_the_catalogue_is_listed(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--list"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == len(CATALOGUE) + 1 and any("mmnist_predrnnpp_one_ep2000" in line and "mse 14.07" in line for line in told)
    assert main(["import", "taxibj", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_from_a_name_to_the_published_figure(there: Path, mirror: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", ENTRY.name, "--mirror", mirror, "--out", "made.safetensors"]) == 0
    assert "catalogue   tiny_one_ep1: Moving MNIST, 1 epochs" in capsys.readouterr().out
    assert read_header(there / "made.safetensors")["provenance"]["catalogue"] == ENTRY.name
    np.save("mnist_test_seq.npy", np.random.default_rng(0).integers(0, 256, (20, 3, 64, 64), np.uint8))
    assert main(["import", "--verify", "made.safetensors", "--root", ".", "--device", "cpu"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    frames = np.load("mnist_test_seq.npy").transpose(1, 0, 2, 3)[:, :, None].astype(np.float32) / 255.0
    forecast = import_predictor("model.pth", patch_size=4, context=10).forecast(frames[:, :10], 10)
    assert f"{np.mean((forecast - frames[:, 10:]) ** 2, axis=(0, 1)).sum():.5g}" in told and "700" in told and "protocol openstl" in told


def test_a_file_fetched_by_hand_is_known_by_its_name(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy("model.pth", ENTRY.file)
    assert main(["import", ENTRY.file, "--out", "made.safetensors"]) == 0
    assert "context 10 (catalogue)" in capsys.readouterr().out
    assert main(["import", ENTRY.file, "--patch-size", "2", "--out", "other.safetensors"]) == 2
    assert "patch_size 2 (given) contradicts patch_size 4 (catalogue)" in capsys.readouterr().err
    assert not Path("other.safetensors").exists()


class Malicious:
    """Leaves a folder behind when unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("pwned",)


def malicious() -> None:
    torch.save({**state(), "extra": Malicious()}, "bad.pth")


def malicious_pickle() -> None:
    Path("bad.pth").write_bytes(pickle.dumps(Malicious()))


def truncated() -> None:
    content = Path("model.pth").read_bytes()
    Path("bad.pth").write_bytes(content[: len(content) // 2])


def flipped() -> None:
    content = bytearray(Path("model.pth").read_bytes())
    weights = state()["cell_list.0.conv_h.0.weight"].numpy().tobytes()
    content[content.index(weights) + 100] ^= 1
    Path("bad.pth").write_bytes(content)


def unknown() -> None:
    torch.save({**state(), "cell_list.0.conv_q.0.weight": torch.zeros(2), "encoder.weight": torch.zeros(2)}, "bad.pth")


def incomplete() -> None:
    torch.save({name: value for name, value in state().items() if "conv_x" not in name}, "bad.pth")


def of_another_network() -> None:
    torch.save({"resnet.conv1.weight": torch.zeros(2), "resnet.fc.bias": torch.zeros(2)}, "bad.pth")


def mixed() -> None:
    """Weights whose names say PredRNN and whose shapes do not."""
    torch.save({**state(), "cell_list.0.conv_m.0.weight": torch.zeros(12, 4, 3, 3)}, "bad.pth")


def untouched() -> None:
    shutil.copy("model.pth", "bad.pth")


def folder() -> None:
    Path("bad.pth").mkdir()


def nothing() -> None:
    pass


@pytest.mark.parametrize(
    ("make", "words", "sentence"),
    [
        (malicious, WHOLE, "bad.pth"),
        (malicious_pickle, WHOLE, "bad.pth"),
        (truncated, WHOLE, "bad.pth is damaged or no torch checkpoint: the list at its end is missing"),
        (flipped, WHOLE, "bad.pth is damaged or no torch checkpoint: a checksum does not fit"),
        (untouched, "", "does not tell patch_size (P: frames are cut into P x P patches), channels (C of a frame), context"),
        (untouched, "--context 10", "patch_size 1 with channels 16 or patch_size 2 with channels 4 or patch_size 4 with channels 1"),
        (untouched, "--patch-size 3 --context 10", "patch_size 3 contradicts the weights"),
        (untouched, f"{WHOLE} --channels 3", "contradicts the weights"),
        (untouched, f"{WHOLE} --source openstll", "There is no source 'openstll'; did you mean 'openstl'?"),
        (untouched, f"{WHOLE} --source e3d_lstm", "bad.pth is no checkpoint of e3d_lstm"),
        (untouched, f"{WHOLE} --maths new", "argument --maths: invalid choice: 'new'"),
        (untouched, "--patch-size 0 --context 10", "argument --patch-size/--patch_size: wants a whole number from 1 up, not '0'"),
        (untouched, f"{WHOLE} --pach-size 4", "has no option '--pach-size'; did you mean '--patch-size'?"),
        (unknown, WHOLE, "does not have here: 'cell_list.0.conv_q.0.weight', 'encoder.weight'"),
        (incomplete, WHOLE, "'cells.0.x.0.weight' is missing"),
        (of_another_network, WHOLE, "of no source that is known here"),
        (mixed, WHOLE, "does not hold the weights of 'predrnn'"),
        (folder, WHOLE, "The folder bad.pth holds no TensorFlow checkpoints"),
        (nothing, WHOLE, "There is no checkpoint bad.pth: neither a file nor the prefix of a TensorFlow checkpoint"),
    ],
)
def test_refused_in_one_sentence_and_nothing_written(
    make: Callable[[], None], words: str, sentence: str, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make()
    before = sorted(there.rglob("*"))
    assert main(f"import bad.pth {words} --out made.safetensors".split()) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("stpredict: ") and told.err.count("\n") == 1 and sentence in told.err
    assert sorted(there.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("model.pth --patch-size 4 --context 10 --out no/made.safetensors", "there is no folder 'no' to write 'made.safetensors' in"),
        ("model.pth --patch-size 4 --context 10 --out made.pth", "A predictor file ends in .safetensors, not '.pth': made.pth"),
        ("model.pth --patch-size 4 --context 10", "needs CHECKPOINT and --out FILE.safetensors"),
        ("--out made.safetensors", "needs CHECKPOINT and --out FILE.safetensors"),
        ("mmnist_predrn_one_ep200 --out made.safetensors", "There is no file mmnist_predrn_one_ep200, and: The catalogue"),
        (
            "tiny_one_ep1 --mirror http://127.0.0.1:9 --out made.safetensors",
            "fetch http://127.0.0.1:9/mmnist-weights/tiny_one_ep1.pth by hand",
        ),
        ("--verify model.pth", "model.pth is no whole predictor file"),
        ("--verify persistence --out made.safetensors", "not allowed with argument"),
        ("zzz --list", "The catalogue of published weights has no 'zzz'"),
    ],
)
def test_asked_wrongly(words: str, sentence: str, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", *words.split()]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and sentence in told.err
    assert [path.name for path in there.rglob("*") if path.is_file()] == ["model.pth"]


def test_an_older_predictor_stays_when_an_import_fails(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"import model.pth {WHOLE} --out made.safetensors".split()) == 0
    before = Path("made.safetensors").read_bytes()
    truncated()
    assert main(f"import bad.pth {WHOLE} --out made.safetensors".split()) == 2
    assert Path("made.safetensors").read_bytes() == before


@pytest.mark.skipif(not GOLDENS.is_dir(), reason="the golden checkpoints of other implementations are not here")
def test_a_tensorflow_checkpoint_and_one_without_its_data(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(GOLDENS / "tf_predrnnpp", there / "tf", copy_function=shutil.copyfile)
    assert main(f"import tf/model.ckpt-80000 {WHOLE} --out made.safetensors".split()) == 0
    assert "source      predrnn-pp\n" in capsys.readouterr().out
    (there / "tf" / "model.ckpt-80000.data-00000-of-00001").unlink()
    assert main(f"import tf/model.ckpt-80000 {WHOLE} --out other.safetensors".split()) == 2
    told = capsys.readouterr()
    assert "model.ckpt-80000.data-00000-of-00001" in told.err and told.err.count("\n") == 1 and not Path("other.safetensors").exists()


def test_a_file_that_only_bears_a_published_name_is_any_file(there: Path) -> None:
    """The facts of the catalogue would contradict those of a file that is too small to be what was published."""
    shutil.copy("model.pth", "mmnist_convlstm_one_ep200.pth")
    words = "import mmnist_convlstm_one_ep200.pth --patch-size 4 --context 4 --out mine.safetensors"
    assert main(words.split()) == 0
    header = read_header(there / "mine.safetensors")
    assert header["context"] == 4 and header["provenance"]["catalogue"] is None
