"""What a page says in words: its title, its first paragraph, where everything comes from, and how to have it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

import stpredict
from stpredict.devices import choose_device
from stpredict.page.runs import RunFolder
from stpredict.page.scoring import Questions, Scored
from stpredict.page.sources import DataOptions, Wanted
from stpredict.results import Scores

_MOST_NAMES = 3


def title_of(names: Sequence[str], cards: Sequence[str]) -> str:
    """Return the title of a page about some predictors on some data."""
    about = _list(list(dict.fromkeys(cards)))
    return f"{_list(names)} on {about}" if names and about else _list(names) or about or "Report"


def heading_of(scores: Scores) -> str:
    """Return what stands above a table of scores."""
    frames = f"{scores.context} + {scores.horizon} frames"
    return f"{scores.card} {scores.split}: {_counted(scores.clips, 'clip')}, {frames}, protocol {scores.protocol}"


def lead_of(runs: Sequence[RunFolder], sheets: Sequence[Scores], by: str | None) -> str:
    """Return the paragraph that says what there is to see, and which predictor is the best by a score."""
    sentences = [_sheet_sentence(scores, by) for scores in sheets]
    if not sheets:
        sentences = [f"{len(runs)} run{'s' if len(runs) != 1 else ''} of training, and no scores."]
    return " ".join(sentences)


def kinds_of(scores: Scores) -> dict[str, str]:
    """Return what each predictor is: ``predictor``, ``baseline`` or ``forecasts``; older files do not say it."""
    return {name: str(scores.predictors.get(name, {}).get("kind", "predictor")) for name in scores.scores}


def _sheet_sentence(scores: Scores, by: str | None) -> str:
    kinds = list(kinds_of(scores).values())
    words = {"predictor": "trained predictor", "forecasts": "set of saved forecasts", "baseline": "baseline"}
    counted = [_counted(kinds.count(kind), word) for kind, word in words.items() if kind in kinds]
    text = (
        f"{_list(counted, len(counted))} over {_counted(scores.clips, 'clip')} of {scores.card} {scores.split}, {scores.context} frames "
        f"observed and {scores.horizon} forecast, by the protocol {scores.protocol}."
    )
    best = _best(scores, by)
    return f"{text} {best}" if best else text


def _best(scores: Scores, by: str | None) -> str:
    """Say which is best by a score, else by the first that tells better from worse; or nothing where there is no choice."""
    asked = [by] if by is not None and by in scores.better else []
    for score in [*asked, *scores.better]:
        better = scores.better[score]
        means = {name: float(by_score[score]["mean"]) for name, by_score in scores.scores.items() if score in by_score}
        finite = {name: mean for name, mean in means.items() if np.isfinite(mean)}
        if len(finite) < 2:
            continue
        name = min(finite, key=lambda one: finite[one] if better == "lower" else -finite[one])
        return f"By {score} the best is {name} ({finite[name]:.4g})."
    return ""


def _counted(count: int, word: str) -> str:
    several = word.replace("set of", "sets of") if word.startswith("set") else f"{word}s"
    return f"{count:,} {word if count == 1 else several}"


def _list(names: Sequence[str], most: int = _MOST_NAMES) -> str:
    """Return names as a sentence has them, the last of many counted only."""
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def provenance_of(device: str, made_by: str, sheets: Sequence[Scores]) -> dict[str, str]:
    """Return what computed the numbers of a page, and the command that made it; no date, so that the same gives the same."""
    where = choose_device(device)
    kernels = torch.cuda.get_device_name(where) if where.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    told = {"stpredict": stpredict.__version__, "torch": torch.__version__, "machine": f"{where.type} ({kernels})"}
    hashes = {f"hash of {name}": str(about["hash"]) for one in sheets for name, about in one.predictors.items() if about.get("hash")}
    return {**told, **hashes, "made by": made_by}


def command(*words: str | Path | int | None) -> str:
    """Return a command line of ``stpredict`` that a shell takes apart again into these words; None is left out."""
    return shlex.join(["stpredict", *(str(word) for word in words if word is not None)])


def run_commands(run: RunFolder, config: str, questions: Questions, scored: Scored | None, clip: int | None) -> list[str]:
    """Return what to type to go on with a run that has not ended, and to have a run and its scores again.

    Args:
        run: the run.
        config: name of the file with its config, beside the page.
        questions: how is scored.
        scored: the pass in which it was scored, if it was.
        clip: whose film to render.
    """
    if not run.data:
        return []
    again = f"again/{run.name}" if run.name.isprintable() else "again/run"
    commands = [command("train", config, f"--run.folder={again}")]
    if run.row.state in ("interrupted", "failed", "new") and str(run.folder).isprintable():
        commands.insert(0, command("resume", run.folder))
    if scored is not None:
        data = _data_words(scored.wanted, questions.split)
        commands.append(command("evaluate", again, *data, *_question_words(questions), "--out", "again.json"))
        if clip is not None:
            commands.append(command("render", again, *data, "--clip", clip, "--out", f"clip-{clip}.mp4"))
    return commands


def report_command(sources: Sequence[str | Path], options: DataOptions, questions: Questions, further: Mapping[str, object]) -> str:
    """Return the command that makes the page again; ``further`` are options of the page alone, those that are None left out."""
    named = Wanted(options.card or "", options.root, options.context, options.horizon)
    data = [*(["--data", options.card] if options.card else []), *_window_words(named), "--split", questions.split]
    own = [part for name, value in further.items() if value is not None for part in (f"--{name}", *([] if value is True else [str(value)]))]
    return command("report", *sources, *data, *_question_words(questions), *own)


def _data_words(wanted: Wanted, split: str) -> list[str]:
    return ["--data", wanted.card, *_window_words(wanted), "--split", split]


def _window_words(wanted: Wanted) -> list[str]:
    given = {"--root": wanted.root, "--context": wanted.context, "--horizon": wanted.horizon}
    return [part for name, value in given.items() if value is not None for part in (name, str(value))]


def _question_words(questions: Questions) -> list[str]:
    words = ["--protocol", questions.protocol] if questions.protocol else []
    words += ["--score", *questions.scores] if questions.scores else []
    words += ["--units", questions.units] if questions.units else []
    words += ["--threshold", *(f"{value:g}" for value in questions.thresholds)] if questions.thresholds else []
    words += ["--limit", str(questions.limit)] if questions.limit is not None else []
    words += [] if questions.baselines else ["--no-baselines"]
    words += ["--skill", questions.skill] if questions.skill else []
    return words + (["--resample", questions.resample] if questions.resample != "clips" else [])
