"""``stpredict render``: which clips, and how they look."""

from __future__ import annotations

import re
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import stpredict
from stpredict.cli.main import main
from stpredict.frames import FrameSpec
from stpredict.predictor import Predictor

DATA = "--data moving_digits --context 3 --horizon 2"


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def size_of(film: str) -> tuple[int, int, int]:
    """Return frames, height and width of a film."""
    with av.open(film) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return len(frames), *frames[0].shape[:2]


def ask(words: str) -> None:
    assert main(words.split()) == 0


def mse_of_clips(count: int) -> np.ndarray:
    """Return the error of persistence for the first clips."""
    data = stpredict.load_data("moving_digits", None, "test", context=3, horizon=2)
    frames = np.stack([data[index].frames for index in range(count)]) / 255.0
    return ((frames[:, 2:3] - frames[:, 3:]) ** 2).mean(axis=(1, 2, 3, 4))


def test_one_clip_with_a_stand_before_the_forecast(capsys: pytest.CaptureFixture[str]) -> None:
    ask(f"render persistence {DATA} --clip 4 --hold 1 --frames-per-second 4 --score mse --theme light --out film.mp4")
    assert capsys.readouterr().out == "film.mp4\n"
    assert size_of("film.mp4")[0] == 5 + 4


def test_several_clips_in_rows_and_as_a_contact_sheet() -> None:
    ask(f"render persistence {DATA} --clip 0 3 5 --scale 2 --out rows.webm")
    ask(f"render persistence {DATA} --clip 3 --scale 2 --out row.webm")
    (count, height, width), (_, one, as_wide) = size_of("rows.webm"), size_of("row.webm")
    assert (count, width) == (5, as_wide) and 2.5 * one < height < 3.5 * one
    ask(f"render persistence {DATA} --clip 0 3 5 --scale 2 --no-error --out sheet.png")
    with Image.open("sheet.png") as sheet:
        assert sheet.height > 6 * 128 and sheet.getpixel((0, 0)) == (255, 255, 255)
    ask(f"render persistence {DATA} --clip 0 3 5 --scale 2 --no-error --theme dark --out sheet.png")
    with Image.open("sheet.png") as sheet:
        assert sheet.getpixel((0, 0)) == (0x24, 0x27, 0x2C)


@pytest.mark.parametrize(("option", "sign"), [("--worst", -1), ("--best", 1)])
def test_clips_are_chosen_by_a_score(option: str, sign: int, capsys: pytest.CaptureFixture[str]) -> None:
    ask(f"render persistence context-mean {DATA} {option} 2 --by mse --limit 7 --scale 1 --out film.webp")
    values = mse_of_clips(7)
    first, second = np.argsort(sign * values)[:2]
    said = capsys.readouterr().err.strip()
    assert said == f"{option[2:]} clips by mse of persistence: {first} ({values[first]:.4g}), {second} ({values[second]:.4g})"


def test_where_more_is_better_the_worst_has_least(capsys: pytest.CaptureFixture[str]) -> None:
    ask(f"render persistence {DATA} --worst 1 --by psnr --limit 5 --scale 1 --out film.webp")
    data = stpredict.load_data("moving_digits", None, "test", context=3, horizon=2)
    frames = np.stack([data[index].frames for index in range(5)]) / 255.0
    squares = ((frames[:, 2:3] - frames[:, 3:]) ** 2).mean(axis=(2, 3, 4))
    worst = (-10 * np.log10(squares)).mean(axis=1).argmin()
    assert capsys.readouterr().err.startswith(f"worst clips by psnr of persistence: {worst} (")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--by mse", r"--by belong\(s\) to --worst N or --best N"),
        ("--limit 3 --clip 1", r"--limit belong\(s\) to --worst"),
        ("--worst 2 --clip 1", "not allowed with"),
        ("--worst 2 --best 2", "not allowed with"),
        ("--worst 0", "wants a whole number from 1 up"),
        ("--worst 1 --by mes", "did you mean 'mse'"),
        ("--score sism", "did you mean 'ssim'"),
        ("--theme drak", "--theme"),
        ("--hold -1", "wants a number above 0"),
        ("--hold 100", "hold must lie in 0 to 60"),
        ("--colours gry", "did you mean 'gray'"),
        ("--clip 3 99999999", "has clips 0 to"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    limit = "--limit 2 " if "--worst 1" in words else ""
    assert main(f"render persistence {DATA} --out film.webp {limit}{words}".split()) != 0
    said = capsys.readouterr().err
    assert re.search(sentence, said), said
    assert "Traceback" not in said and not Path("film.webp").exists()


def test_a_score_without_a_direction_ranks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine_without_direction.py").write_text(
        "import torch\nclass Mine:\n    name = 'mine'\n    def __call__(self, prediction, truth, spec):\n"
        "        return torch.zeros(truth.shape[:2]), torch.ones(truth.shape[:2])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = f"render persistence {DATA} --worst 1 --by mine_without_direction:Mine --limit 2 --out film.webp"
    assert main(words.split()) != 0
    assert "'mine' does not say which direction is better" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--score sism", "--colours gry", "--hold 100", "--out film.avi"])
def test_a_slip_is_told_of_before_clips_are_ranked(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("stpredict.evaluation.evaluate", lambda *_, **__: pytest.fail("hours were spent"))
    assert main(f"render persistence {DATA} --worst 1 --out film.webp {words}".split()) != 0
    assert "Traceback" not in capsys.readouterr().err


def save_arrays(clips: int) -> None:
    """Save what persistence forecasts as OpenSTL does."""
    data = stpredict.load_data("moving_digits", None, "test", context=3, horizon=2)
    frames = np.stack([data[index].frames for index in range(clips)]).astype(np.float32) / 255
    Path("rival").mkdir()
    np.save("rival/preds.npy", np.repeat(frames[:, 2:3], 2, axis=1))
    np.save("rival/trues.npy", frames[:, 3:])


def test_saved_forecasts_are_ranked_where_they_are_and_refused_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    save_arrays(4)
    ask(f"render persistence rival {DATA} --worst 9 --scale 1 --out film.webp")
    said = capsys.readouterr().err
    assert sorted(re.findall(r"(\d+) \(", said)) == ["0", "1", "2", "3"], said
    for words, sentence in {
        f"rival persistence {DATA} --clip 4": "rival forecasts clips 0 to 3, not 4",
        "rival persistence --data moving_digits --context 3 --horizon 3": "rival forecasts other clips .* horizon 2 instead of 3",
        "rival persistence --data moving_digits --context 2 --horizon 2": "is not the truth of clip 0",
    }.items():
        assert main(f"render {words} --out film.webp".split()) != 0
        said = capsys.readouterr().err
        assert re.search(sentence, said) and "Traceback" not in said, said


def test_what_is_taken_on_trust_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    shape = (len(stpredict.load_data("moving_digits", None, "test")), 2, 1, 64, 64)
    np.lib.format.open_memmap("preds.npy", "w+", np.float32, shape).flush()
    ask(f"render preds.npy {DATA} --clip 7 --scale 1 --out film.webp")
    assert "preds.npy has no truth (trues.npy) beside it" in capsys.readouterr().err


def test_frames_that_a_predictor_was_not_made_for_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = stpredict.create_network("convlstm", channels=1, frame_size=(8, 8), hidden=[2], kernel_size=3, patch_size=2)
    spec = FrameSpec(1, 8, 8, "mm/h", time_step=300.0)
    settings = {"hidden": [2], "kernel_size": 3, "patch_size": 2}
    Predictor(network, spec, 3, 2, network_name="convlstm", network_settings=settings).save(tmp_path / "rain.safetensors")
    assert main(["render", "rain.safetensors", "--data", "moving_digits", "--out", "film.webp"]) != 0
    assert "'rain.safetensors' does not fit the data 'moving_digits': it has units mm/h instead of 1" in capsys.readouterr().err
