"""Reports of tiny runs: their numbers are those of ``evaluate``, their films those of the clips, and they appear whole or not at all."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import safetensors.torch
import torch

import stpredict
from stpredict.cli import main as commands
from stpredict.cli.main import main
from stpredict.page import report, reporting
from stpredict.page.html import page_html
from stpredict.page.runs import open_run, tell_run
from stpredict.page.story import Story
from stpredict.protocols import PROTOCOLS
from stpredict.results import Scores

TINY = """
data:
  card: moving_digits
  context: 3
  horizon: 2
  batch_size: 2
  workers: 0
  settings: {digits: 1, size: 32, validation_clips: 2, test_clips: 6}
network: {name: predrnn, hidden: [4], kernel_size: 3, patch_size: 4}
trainer: {max_steps: 4, validate_every: 2, checkpoint_every: 2, log_every: 1, threads: 1, device: cpu}
"""
WINDOW: dict[str, Any] = {"context": 3, "horizon": 2, "settings": {"digits": 1, "size": 32, "test_clips": 6}}
HOSTILE = "a<b>&\"c' ;$(d)"


def ask(*words: str) -> None:
    assert main(list(words)) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, one of a hostile name; forecasts and scores of the first; an unfinished run; and a broken one."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ask("train", "tiny.yaml", "--run.folder", "one")
        ask("train", "tiny.yaml", "--run.folder", HOSTILE, "--network.name", "convlstm", "--trainer.device", "cpu", "--seed", "3")
        ask("evaluate", "one", "--data", "moving_digits", "--out", "old.json", "--save-forecasts", "saved.npz", "--device", "cpu")
        ask("train", "tiny.yaml", "--run.folder", "young", "--trainer.max_steps", "1")
        for name in ("best", "last"):
            (folder / "young" / f"{name}.safetensors").unlink(missing_ok=True)
        shutil.copytree("one", "damaged")
        whole = (folder / "one" / "best.safetensors").read_bytes()
        (folder / "damaged" / "best.safetensors").write_bytes(whole[: len(whole) // 2])
        (folder / "broken").mkdir()
        (folder / "broken" / "config.yaml").write_text("data: [")
        (folder / "broken" / "log.csv").write_text("step,loss\n1,what\n")
    return folder


@pytest.fixture
def there(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own for a test, with all of these in it."""
    shutil.copytree(trained, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "there"


@pytest.fixture(scope="module")
def made(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of everything; the test asserts what it holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        out = tmp_path_factory.mktemp("made") / "page"
        sources = ["one", HOSTILE, "young", "broken", "damaged", "saved.npz", "persistence", "old.json"]
        assert report(sources, out, clips=3, device="cpu", skill="persistence") == out / "index.html"
    return out


def page_text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def warnings_of(page: Path) -> str:
    found = re.search(r"<ul class=\"?warnings\"?>(.*?)</ul>", page_text(page), re.DOTALL)
    return "" if found is None else found[1]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def frames_of(film: Path) -> list[np.ndarray]:
    with av.open(str(film)) as container:
        return [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]


def test_the_numbers_are_those_of_evaluate(made: Path, trained: Path) -> None:
    told = json.loads((made / "scores.json").read_text())
    data = stpredict.load_data("moving_digits", None, "test", **WINDOW)
    runs = [stpredict.load_predictor(trained / name) for name in ("one", HOSTILE)]
    names = ["mse", "mae", "mse_sum", "mae_sum", "ssim", "psnr", "power_ratio"]
    live = stpredict.evaluate([*runs, "persistence"], data, scores=names, skill="persistence", device="cpu").to_dict()
    assert list(told["scores"]) == ["one", HOSTILE, "saved.npz", "persistence", "extrapolation", "context-mean", "training-mean"]
    assert told["data"] == live["data"] and told["data"]["clips"] == 6
    for name, by_score in live["scores"].items():
        assert told["scores"][name] == by_score
        if name != "persistence":
            assert told["over"]["skill"][name] == live["over"]["skill"][name]
    assert told["scores"]["saved.npz"] == told["scores"]["one"]  # the same forecasts, saved
    assert Scores.read(made / "scores.json").csv() == (made / "scores.csv").read_text().replace(",inf,", ",,")  # JSON has no infinity
    assert not (made / "scores-2.json").exists()  # what was found before stands in the same table


def test_films_show_the_chosen_clips(made: Path) -> None:
    told = json.loads((made / "scores.json").read_text())
    chosen = told["selected"]["mse"]["one"]
    wanted = dict.fromkeys([chosen["worst"], chosen["median"], chosen["best"], 0])
    shown = {int(path.name.split("-")[1]) for path in (made / "films").iterdir()}
    assert shown == set(list(wanted)[:3])
    data = stpredict.load_data("moving_digits", None, "test", **WINDOW)
    for clip in shown:
        film = frames_of(made / "films" / f"clip-{clip}-0.mp4")
        true = data[clip].frames[:, 0]
        assert len(film) == len(true) == 5
        for picture, frame in zip(film, true, strict=True):
            side = picture.shape[0] // frame.shape[0]
            small = picture.reshape(frame.shape[0], side, frame.shape[1], side).mean((1, 3))
            assert np.abs(small - frame).mean() < 6.0
    page = page_text(made / "index.html")
    assert f"Worst clip by mse of one (clip {chosen['worst']})" in page
    assert not re.search(r"films/[^\"]*(?:one|saved|persistence)", page)
    assert all(re.fullmatch(r"clip-\d+-(\d+\.mp4|\d+\.webm|legend-\d+\.png)", path.name) for path in (made / "films").iterdir())


def test_the_first_lines_say_what_is_best_by_how_much_and_whether_it_may_be_chance(made: Path, trained: Path) -> None:
    told = json.loads((made / "scores.json").read_text())["scores"]
    best, second = sorted(told, key=lambda name: told[name]["mse"]["mean"])[:2]
    data = stpredict.load_data("moving_digits", None, "test", **WINDOW)
    training = stpredict.load_data("moving_digits", None, "train", **WINDOW)
    live = stpredict.evaluate("persistence", data, training_clips=training, scores=["mse"], skill=second, device="cpu").over
    assert live is not None
    gain = live["differences"][best]["mse"]  # of baselines: no network as tiny as these beats them
    lead = html.unescape(re.sub(r"<[^>]*>", "", " ".join(re.findall(r'<p class="lead">(.*?)</p>', page_text(made / "index.html")))))
    words = re.search(
        rf"By mse, {best} is the best with .*, before {second} with .*; the difference of (.*?) \[(.*?), (.*?)\] (.*?)\.", lead
    )
    assert words, lead
    said = [float(word.replace("\N{MINUS SIGN}", "-")) for word in words.groups()[:3]]
    assert said == pytest.approx([-gain["value"], -gain["high"], -gain["low"]], abs=1e-3)
    assert words[4] == ("is significant" if gain["high"] < 0 else "may be chance")


def test_runs_are_sorted_by_numbers_and_not_by_their_words(trained: Path) -> None:
    runs = [tell_run(open_run(trained / name, name), [], "") for name in ("one", "young", "broken")]
    weights = safetensors.torch.load_file(trained / "one" / "best.safetensors").values()
    assert runs[0].numbers["parameters"] == sum(weight.numel() for weight in weights) and "," in runs[0].facts["parameters"]
    assert runs[0].numbers["state"] == 4 and runs[0].facts["state"] == "done, 4 steps"
    best = runs[0].numbers["best validation mse (of scaled values)"]
    assert best == min(value for _, value in runs[0].curves["validation_mse"])
    assert "parameters" not in runs[1].numbers and runs[2].numbers == {"state": 0}
    page = page_html(Story("t", runs=tuple(runs)), lambda file: None)
    assert f'<td data-value="{best!r}"><bdi class="name">{best:.4g} at step ' in page


def test_a_protocol_brings_its_split_and_window(there: Path) -> None:
    rules = replace(PROTOCOLS["per-pixel"], name="toy", scores=("mse",), splits={"moving_digits": "validation"}, context=3, horizon=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "toy", rules)
        page = report("one", "page", protocol="toy", baselines=False, clips=0, device="cpu")
        other = report("one", "other", protocol="toy", split="test", baselines=False, clips=0, device="cpu")
    data, otherwise = (json.loads((one.parent / "scores.json").read_text())["data"] for one in (page, other))
    assert (data["split"], data["context"], data["horizon"], data["clips"]) == ("validation", 3, 1, 2)
    assert (otherwise["split"], otherwise["horizon"]) == ("test", 1)
    assert "evaluate again/one --data moving_digits --context 3 --horizon 1 --split validation" in page_text(page)


def test_a_note_says_the_score_of_the_clip(made: Path, trained: Path) -> None:
    data = stpredict.load_data("moving_digits", None, "test", **WINDOW)
    scores = stpredict.evaluate(trained / "one", data, scores=["mse"], baselines=False, device="cpu")
    worst = scores.selected["mse"]["one"]["worst"]
    assert scores.per_clip["one"]["mse"][worst] == max(scores.per_clip["one"]["mse"])
    assert f"mse {max(scores.per_clip['one']['mse']):.4g}" in page_text(made / "index.html")


def test_what_is_not_whole_is_told_and_its_curves_are_shown(made: Path) -> None:
    told = warnings_of(made / "index.html")
    assert "The run &#x27;young&#x27; has no predictor yet (done, 1 step): only its curves are shown" in told
    assert "The run &#x27;broken&#x27; cannot be read whole" in told and "is no YAML" in told and "is no log of a run" in told
    assert "damaged" in told and "is no whole predictor file" in told
    page = page_text(made / "index.html")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    names = [series["name"] for series in data["series"]]
    drawn = {curve["name"]: {names[line["series"]] for line in curve["lines"]} for curve in data["curves"]}
    assert drawn["loss"] == {"one", HOSTILE, "young", "damaged"} and drawn["validation_mse"] >= {"one", HOSTILE}
    assert HOSTILE not in page and "a&lt;b&gt;" in page


def test_the_commands_do_it_again(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_text(made / "index.html")
    found = re.findall(r'<pre class="commands">(.*?)</pre>', page, re.DOTALL)
    lines = [line for block in found for line in html.unescape(block).splitlines()]
    assert len([line for line in lines if " train " in line]) == 4 and len([line for line in lines if " evaluate " in line]) == 2
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "stpredict" and commands.parse(words).action is not None
    shutil.copytree(made, tmp_path / "page")
    monkeypatch.chdir(tmp_path / "page")
    hostile = [line for line in lines if "again/a<b" in line]
    assert len(hostile) == 3
    for line in hostile:
        ask(*shlex.split(line)[1:])
    ours, told = json.loads(Path("again.json").read_text()), json.loads((made / "scores.json").read_text())
    assert ours["scores"][HOSTILE]["mse"] == told["scores"][HOSTILE]["mse"]
    assert list(Path.cwd().glob("clip-*.mp4"))


def test_a_report_command_stands_on_the_page(made: Path) -> None:
    line = next(html.unescape(text) for text in re.findall(r">(stpredict report [^<]*)<", page_text(made / "index.html")))
    words = shlex.split(line)[1:]
    assert words[:3] == ["report", "one", HOSTILE] and words[words.index("--clips") + 1] == "3"
    assert words[words.index("--skill") + 1] == "persistence" and "--no-baselines" not in words


def test_the_same_sources_give_the_same_bytes_and_an_earlier_report_is_replaced(there: Path) -> None:
    settings: dict[str, Any] = {"clips": 1, "scores": ["mse"], "device": "cpu"}
    report(["one"], "page", **settings)
    first = files_of(there / "page")
    assert {"index.html", "scores.json", "scores.csv", "config-1.yaml", "report.json"} <= set(first)
    report("one", there / "page", **settings)
    assert files_of(there / "page") == first
    report(["one", "persistence"], "page", title="Another <title>", **{**settings, "clips": 0, "baselines": False})
    second = files_of(there / "page")
    assert not any(name.startswith("films/") for name in second) and b"Another &lt;title&gt;" in second["index.html"]
    assert not [path for path in there.iterdir() if path.name.startswith(".page")]


def test_interrupted_half_way_it_leaves_the_earlier_report(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report("one", "page", clips=0, scores=["mse"], device="cpu")
    before = files_of(there / "page")

    def interrupted(*_: Any, **__: Any) -> Path:
        raise KeyboardInterrupt

    def full(story: Any, folder: Path, *_: Any, **__: Any) -> Path:
        raise OSError(28, "No space left on device", str(folder / "index.html"))

    monkeypatch.setattr(reporting, "write_page", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report("one", "page", clips=1, scores=["mse"], device="cpu")
    monkeypatch.setattr(reporting, "write_page", full)
    with pytest.raises(OSError, match="No space left") as error:
        report("one", "page", clips=1, scores=["mse"], device="cpu")
    assert error.value.filename == str(there / "page" / "index.html")
    assert files_of(there / "page") == before
    assert not [path for path in there.iterdir() if path.name.startswith(".page")]


def test_a_reader_never_sees_half_a_report(there: Path) -> None:
    report("one", "page", clips=0, scores=["mse"], device="cpu", title="A")
    missing: list[str] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            try:
                os.stat(there / "page" / "index.html")
            except FileNotFoundError:
                missing.append("index.html")

    looking = threading.Thread(target=look)
    looking.start()
    for title in "BCD":
        report("one", "page", clips=0, scores=["mse"], device="cpu", title=title)
    done.set()
    looking.join()
    assert missing == []


def test_what_killed_processes_left_is_removed(there: Path) -> None:
    for name in (".page.999999999.part", f".page.{os.getppid()}.part", ".pager.999999999.part"):
        (there / name).mkdir()
    report("one", "page", clips=0, scores=["mse"], device="cpu")
    assert sorted(path.name for path in there.glob(".page*")) == sorted([f".page.{os.getppid()}.part", ".pager.999999999.part"])


def test_in_a_browser_its_films_play_and_nothing_complains(made: Path, chromium: Any) -> None:
    page, said, asked = chromium.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((made / "index.html").as_uri())
    page.locator("article.clip").first.scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelector('article.clip video')?.readyState === 4", timeout=20_000)
    rows = page.locator("table.scores").first.locator("tbody th").all_inner_texts()
    page.close()
    assert said == [] and all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    assert [row.strip() for row in rows if row.strip() == HOSTILE] == [HOSTILE]


def test_names_that_are_no_text_and_forecasts_that_are_no_numbers(there: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n")
    shutil.copytree("one", name)
    predictor = stpredict.load_predictor("one")
    with torch.no_grad():
        for weight in predictor.network.parameters():
            weight.fill_(float("nan"))
    predictor.save("nan.safetensors")
    Path("no-text.json").write_text(Path("old.json").read_text().replace('"one"', '"caf\\udce9"'))
    page = report(["nan.safetensors", "one", name, "no-text.json"], "page", clips=2, device="cpu")
    told = json.loads((page.parent / "scores.json").read_text())["scores"]
    assert list(told)[:2] == ["nan.safetensors", "one"] and list(told)[-1] == "caf\udce9"
    assert told["nan.safetensors"]["mse"]["mean"] is None
    assert "caf?" in (page.parent / "scores.csv").read_text(encoding="utf-8")
    warned = html.unescape(warnings_of(page))
    assert "NaN where the truth is not" in warned and "is not valid UTF-8" in warned
    assert "First clip (clip 0)" in page_text(page) and "Further clip (clip 1)" in page_text(page)
    assert "--run.folder=again/run" in html.unescape(page_text(page))


@pytest.mark.parametrize("single", ["page.html", "folder"])
def test_one_file_holds_everything(there: Path, single: str) -> None:
    page = report("one", single, clips=1, scores=["mse"], device="cpu", single_file=True)
    assert page == (Path("page.html") if single == "page.html" else Path("folder/index.html"))
    text = page_text(page)
    assert 'src="films/' not in text and len(text) > 20_000
    assert not list(there.rglob("films"))


def test_what_does_not_fit_is_named_and_the_rest_is_shown(there: Path) -> None:
    spec = stpredict.FrameSpec(3, 32, 32)
    network = stpredict.create_network("convlstm", channels=3, frame_size=(32, 32), hidden=[2], kernel_size=3, patch_size=4)
    settings = {"hidden": [2], "kernel_size": 3, "patch_size": 4}
    coloured = stpredict.Predictor(network, spec, 3, 2, network_name="convlstm", network_settings=settings)
    coloured.save("coloured.safetensors")
    other = stpredict.load_data("moving_digits", None, "test", **{**WINDOW, "settings": {**WINDOW["settings"], "digits": 2}})
    stpredict.evaluate("persistence", other, scores=["mse"], baselines=False, save_forecasts="other.npz", device="cpu")
    said: list[str] = []
    page = report(["one", "coloured.safetensors", "other.npz"], "page", clips=1, scores=["mse"], device="cpu", warn=said.append)
    told = html.unescape(warnings_of(page))
    assert len(said) == 2 and all(words in told for words in said)
    assert "Not scored: 'coloured.safetensors': The predictor 'coloured.safetensors' does not fit the data 'moving_digits'" in told
    assert "Not scored: 'other.npz'" in told
    scores = json.loads((page.parent / "scores.json").read_text())["scores"]
    assert list(scores) == ["one", "persistence", "extrapolation", "context-mean", "training-mean"]


def test_other_windows_and_other_data_stand_apart(there: Path) -> None:
    ask("train", "tiny.yaml", "--run.folder", "long", "--data.horizon", "4", "--trainer.max_steps", "1")
    Path("gone.yaml").write_text(TINY.replace("moving_digits", "nowhere.yaml"))
    shutil.copytree("one", "lost")
    config = Path("lost/config.yaml").read_text().replace("card: moving_digits", "card: nowhere.yaml")
    Path("lost/config.yaml").write_text(config)
    page = report(["one", "long", "lost"], "page", clips=1, scores=["mse"], device="cpu", baselines=False)
    told = html.unescape(warnings_of(page))
    assert "The predictors are of 2 kinds of clips" in told
    assert "Not scored: 'lost': There is no card 'nowhere.yaml'" in told
    first, second = (json.loads((page.parent / name).read_text()) for name in ("scores.json", "scores-2.json"))
    assert (list(first["scores"]), first["data"]["horizon"]) == (["one"], 2)
    assert (list(second["scores"]), second["data"]["horizon"]) == (["long"], 4)
    assert {path.name.split("-")[0] for path in (page.parent / "films").iterdir()} == {"clip", "sheet"}

    page = report(["one", "long"], "page", clips=1, scores=["mse"], device="cpu", baselines=False, horizon=3)
    assert list(json.loads((page.parent / "scores.json").read_text())["scores"]) == ["one", "long"]


def test_scores_alone_make_a_page(there: Path) -> None:
    command = "evaluate persistence --data moving_digits --limit 3 --context 3 --horizon 2 --score mse --no-baselines --out new.json"
    ask(*command.split())
    page = report(["old.json", "new.json"], "page")
    first, second = (json.loads((page.parent / name).read_text()) for name in ("scores.json", "scores-2.json"))
    assert first == json.loads(Path("old.json").read_text()) and second == json.loads(Path("new.json").read_text())
    assert "cannot be compared" in page_text(page) or "not comparable" in page_text(page)


def test_scores_of_an_older_version_make_a_page(there: Path) -> None:
    plain = json.loads(Path("old.json").read_text())
    for name in ("predictors", "better", "resample", "selected"):
        del plain[name]
    Path("older.json").write_text(json.dumps(plain))
    page = report("older.json", "page")
    assert (
        "5 trained predictors, scored on 6 clips of moving_digits test by the protocol per-pixel: 3 frames observed, 2 forecast"
        in page_text(page)
    )


@pytest.mark.parametrize(
    ("sources", "asked", "why"),
    [
        (["nothing"], {}, "There is no predictor 'nothing'"),
        (["."], {}, "is no run, but holds runs: name these, such as"),
        (["one"], {"protocol": "openstel"}, "There is no protocol 'openstel'"),
        (["one"], {"scores": ["msse"]}, "did you mean 'mse'?"),
        (["one"], {"skill": "persistance"}, "did you mean 'persistence'?"),
        (["one"], {"by": "sim"}, "Clips cannot be chosen by 'sim'; did you mean 'ssim'?"),
        (["one"], {"clips": -1}, "clips is at least 0"),
        (["persistence"], {}, "nothing says which data it is of: name the card (--data CARD)"),
        (["persistence"], {"data": "moving_digits", "split": "tst"}, "tst"),
    ],
)
def test_what_cannot_be_is_refused(there: Path, sources: list[str], asked: dict[str, Any], why: str) -> None:
    with pytest.raises(stpredict.UserError, match=re.escape(why)):
        report(sources, "page", device="cpu", **asked)
    assert not Path("page").exists() and not list(there.glob(".page*"))


def test_places_that_hold_something_else_are_refused(there: Path) -> None:
    settings: dict[str, Any] = {"clips": 0, "scores": ["mse"], "device": "cpu"}
    with pytest.raises(stpredict.UserError, match=r"holds '\.lock', which is of no report: name a folder that is new"):
        report("one", "one", **settings)
    with pytest.raises(stpredict.UserError, match=r"tiny.yaml' is a file; name a folder"):
        report("one", "tiny.yaml", **settings)
    with pytest.raises(stpredict.UserError, match=r"There is no folder .*nowhere' to write 'page' in; make it first"):
        report("one", "nowhere/page", **settings)
    Path("page").mkdir()
    report("one", "page", **settings)  # an empty folder is free
    Path("page/notes.txt").write_text("mine")
    with pytest.raises(stpredict.UserError, match=r"holds 'notes.txt', which is of no report"):
        report("one", "page", **settings)
    assert Path("page/notes.txt").read_text() == "mine"


def test_a_run_is_trained_again_exactly(made: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ask("train", str(made / "config-1.yaml"), "--run.folder=again/one")
    ours, theirs = (safetensors.torch.load_file(folder / "best.safetensors") for folder in (tmp_path / "again/one", trained / "one"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
