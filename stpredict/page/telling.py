"""What a page says in words: its title, its first paragraph, where everything comes from, and how to have it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

import stpredict
from stpredict import kernels
from stpredict.devices import choose_device
from stpredict.metrics.bootstrap import REPLICATES, draw_units, interval_of
from stpredict.page.markup import decimals, is_interval, is_number, number
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
    """Return what there is to see and which predictor is the best by a score, a line for each table."""
    lines = [line for scores in sheets for line in (_sheet_sentence(scores), _verdict(scores, by)) if line]
    if any("[" in line for line in lines):
        lines.append("Brackets hold 95 % intervals.")
    return "\n".join(lines) or f"{_counted(len(runs), 'run')} of training, and no scores."


def kinds_of(scores: Scores) -> dict[str, str]:
    """Return what each predictor is: ``predictor``, ``baseline`` or ``forecasts``; older files do not say it."""
    return {name: str(scores.predictors.get(name, {}).get("kind", "predictor")) for name in scores.scores}


def _sheet_sentence(scores: Scores) -> str:
    kinds = list(kinds_of(scores).values())
    words = {"predictor": "trained predictor", "forecasts": "set of saved forecasts", "baseline": "baseline"}
    counted = [_counted(kinds.count(kind), word) for kind, word in words.items() if kind in kinds]
    return (
        f"{_list(counted, len(counted))}, scored on {_counted(scores.clips, 'clip')} of {scores.card} {scores.split} by the protocol "
        f"{scores.protocol}: {scores.context} frames observed, {scores.horizon} forecast."
    )


def _verdict(scores: Scores, by: str | None) -> str:
    """Say which is the best by a score, else by the first that tells better from worse, by how much, and whether that may be chance."""
    for score in [*([by] if by is not None and by in scores.better else []), *scores.better]:
        found = {name: by_score[score] for name, by_score in scores.scores.items() if score in by_score}
        means = {name: float(numbers["mean"]) for name, numbers in found.items() if is_number(numbers["mean"])}
        if len(means) > 1:
            break
    else:
        return ""
    sign = -1.0 if scores.better[score] == "lower" else 1.0
    best, second, *others = sorted(means, key=lambda name: -sign * means[name])
    places = decimals(means.values(), [found[name].get("interval") for name in means])

    def says(name: str, bounds: object = None) -> str:
        return number(means[name], places) + (f" [{number(bounds[0], places)}, {number(bounds[1], places)}]" if is_interval(bounds) else "")

    ends = [found[name].get("interval") for name in (best, second)]
    text = f"By {score}, {best} is the best with {says(best, ends[0])}, before {second} with {says(second, ends[1])}"
    gain = _paired_gain(scores, score, best, second, sign)
    if gain is not None:
        low, high = gain
        text += (
            f"; the difference of {number(sign * (means[best] - means[second]), places)} [{number(low, places)}, {number(high, places)}] "
        )
        text += "is significant." if low > 0 else "may be chance."
    elif is_interval(ends[0]) and is_interval(ends[1]):
        apart = ends[0][1] < ends[1][0] or ends[1][1] < ends[0][0]
        text += f"; their intervals {'do not overlap' if apart else 'overlap'}."
    else:
        text += "."
    baselines = [name for name in others if kinds_of(scores)[name] == "baseline"]
    if baselines and "baseline" not in (kinds_of(scores)[best], kinds_of(scores)[second]):
        text += f" The best baseline, {baselines[0]}, has {says(baselines[0])}."
    return text


def _paired_gain(scores: Scores, score: str, best: str, second: str, sign: float) -> tuple[float, float] | None:
    """Return the 95 % interval of by how much one predictor is better, over the draws of ``evaluate``.

    None where the clips' own scores do not say it: they were not kept, or the score is no mean over clips.
    """
    kept = [scores.per_clip.get(name, {}).get(score) for name in (best, second)]
    if scores.resample != "clips" or kept[0] is None or kept[1] is None or len(scores.indices) < 2:
        return None
    own, other = (np.asarray(values, dtype=np.float64) for values in kept)
    means = [scores.scores[name][score]["mean"] for name in (best, second)]
    if not np.allclose([own.mean(), other.mean()], means, rtol=1e-5, atol=0.0):
        return None
    sums, counts = np.zeros(REPLICATES), np.zeros(REPLICATES)
    for start in range(0, len(own), 1000):  # the draws of all clips at once need not fit into memory
        part = slice(start, start + 1000)
        times = draw_units(scores.indices[part]).times
        sums += times @ (sign * (own - other)[part])
        counts += times.sum(1)
    with np.errstate(invalid="ignore"):
        low, high = interval_of(sums / counts)
    return float(low), float(high)


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
    unit = torch.cuda.get_device_name(where) if where.type == "cuda" else f"{torch.backends.cpu.get_cpu_capability()}, {kernels.in_use()}"
    told = {"stpredict": stpredict.__version__, "torch": torch.__version__, "machine": f"{where.type} ({unit})"}
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
        data = _data_words(scored.wanted, scored.scores.split)
        commands.append(command("evaluate", again, *data, *_question_words(questions), "--out", "again.json"))
        if clip is not None:
            commands.append(command("render", again, *data, "--clip", clip, "--out", f"clip-{clip}.mp4"))
    return commands


def report_command(sources: Sequence[str | Path], options: DataOptions, questions: Questions, further: Mapping[str, object]) -> str:
    """Return the command that makes the page again; ``further`` are options of the page alone, those that are None left out."""
    named = Wanted(options.card or "", options.root, options.context, options.horizon)
    data = [
        *(["--data", options.card] if options.card else []),
        *_window_words(named),
        *(["--split", questions.split] if questions.split else []),
    ]
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
