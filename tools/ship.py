"""Turn a run into a shipped predictor: ``python tools/ship.py RUN --name NAME --about 'one line'``.

It stores the run's best predictor in bf16, scores that very file beside the baselines, films it, and writes the model card and the entry
of the index from what was measured: no number is typed by hand. Once more with the same name replaces all of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml

from stpredict import shipped
from stpredict.configuration import dump_config
from stpredict.data import load_data
from stpredict.data.card import read_card
from stpredict.data.clips import ClipSet
from stpredict.errors import UserError, nearest
from stpredict.evaluation import Scores, evaluate
from stpredict.files import whole_file, write_text
from stpredict.networks import NETWORKS
from stpredict.predictor import Predictor, load_predictor, read_header, read_predictor
from stpredict.shipped import LARGEST, Shipped, read_index
from stpredict.showing import describe_predictor, render_clips
from stpredict.training.overview import read_log
from stpredict.training.run import Run
from stpredict.training.settings import DataSettings, OptimizerSettings, Settings, TrainerSettings

_PLACES = ("root", "workers", "device", "devices", "max_hours", "threads")
"""Settings that say where something was made, and change nothing of it."""


def main(words: Sequence[str] | None = None) -> int:
    """Ship what the command line names."""
    arguments = _parser().parse_args(words)
    try:
        about = ship(
            arguments.run,
            arguments.name,
            arguments.about,
            limits=arguments.limits,
            machine=arguments.machine,
            licence=arguments.licence,
            root=arguments.root,
            split=arguments.split,
            limit=arguments.limit,
            score=arguments.score,
            folder=arguments.out,
        )
    except UserError as error:
        print(f"ship: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.name}: {about.weights:,} weights in {about.size:,} bytes, {about.result()}")
    return 0


def ship(
    folder_of_run: Path,
    name: str,
    about: str,
    *,
    limits: Sequence[str] = (),
    machine: str = "",
    licence: str = "apache-2.0",
    root: Path | None = None,
    split: str = "test",
    limit: int | None = None,
    score: str = "mse_sum",
    folder: Path | None = None,
) -> Shipped:
    """Write predictor file, film, model card and entry of the index.

    Args:
        folder_of_run: the run, which has ended.
        name: what the predictor is to be called.
        about: what it is, in one line.
        limits: what else its user should know, a sentence each.
        machine: what it was trained on, such as ``one core of a laptop``.
        licence: of the weights, as the Hugging Face Hub abbreviates it.
        root: where the files of its card are.
        split: what is scored.
        limit: score the first so many clips only.
        score: the one by which it is told in one line.
        folder: where to; None: where the installed program looks.

    Raises:
        UserError: there is no such run, its network is not ours, or the file would be larger than shipped ones may be.
    """
    folder = folder or shipped.FOLDER
    run, settings = Run.open(folder_of_run)
    if not run.done:
        raise UserError(f"{folder_of_run} has not ended, so that its cost is not known: go on with 'stpredict resume {folder_of_run}'")
    predictor = load_predictor(folder_of_run)
    assert isinstance(predictor, Predictor), "a run has no saved forecasts"
    if predictor.network_name not in NETWORKS:
        raise UserError(f"'{predictor.network_name}' is code outside stpredict, which is not shipped with it")
    if PurePath(name).name != name or not name.replace("-", "").replace("_", "").isalnum():
        raise UserError(f"A name is letters, digits, - and _, not '{name}'")
    with TemporaryDirectory() as place:
        file = Path(place) / f"{name}.safetensors"
        predictor.provenance = strip_paths(predictor.provenance)
        predictor.save(file, {key: _narrow(value) for key, value in predictor.network.state_dict().items()})
        if file.stat().st_size > LARGEST:
            raise UserError(f"{folder_of_run} makes a file of {file.stat().st_size:,} bytes, and shipped ones have at most {LARGEST:,}")
        stored = read_predictor(file)
        stored.name = name
        card = str(settings.data.card)
        clips = load_data(card, root, split, context=stored.context, horizon=stored.horizon, **stored.data_changes(card))
        scores = evaluate([stored], clips, limit=limit, progress=True)
        best = best_baseline(scores, score)
        film = Path(place) / f"{name}.gif"
        render_clips({"forecast": stored, best: load_predictor(best)}, clips, _typical(scores, name, score), film, scale=2, theme="light")
        entry = _entry(about, file, stored, settings, run, scores, best, score, licence)
        text = model_card(name, entry, file, settings, scores, [*_standing_limits(stored, clips), *limits], machine)
        for made in (file, film):
            with whole_file(folder / made.name) as temporary:
                shutil.copyfile(made, temporary)
    write_text(folder / f"{name}.md", text)
    index = {**(read_index(folder) if (folder / "index.json").exists() else {}), name: entry}
    write_text(folder / "index.json", json.dumps({key: asdict(index[key]) for key in sorted(index)}, indent=2) + "\n")
    return entry


def strip_paths(value: Any) -> Any:
    """Return plain data in which every absolute path is its last part."""
    if isinstance(value, Mapping):
        return {key: strip_paths(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [strip_paths(part) for part in value]
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value


def best_baseline(scores: Scores, score: str) -> str:
    """Return the name of the baseline that is best by a score.

    Raises:
        UserError: that was not scored, or does not say which direction is better.
    """
    way = scores.better.get(score)
    if way is None:
        raise UserError(f"There is no score '{score}' by which to tell how good it is{nearest(score, scores.better)}")
    means = {name: scores.scores[name][score]["mean"] for name in scores.baselines}
    return (min if way == "lower" else max)(means, key=lambda name: means[name])


def recipe_of(settings: Settings) -> dict[str, Any]:
    """Return the config as plain data, without places and without what is the default anyway."""
    plain = strip_paths(settings.to_dict())
    kept = {section: plain[section] for section in ("network", "loss", "sampling") if plain[section]}
    for section, kind in {"data": DataSettings, "optimizer": OptimizerSettings, "trainer": TrainerSettings}.items():
        kept[section] = {key: value for key, value in plain[section].items() if key not in _PLACES and value != _default(kind, key)}
    order = ("data", "network", "loss", "sampling", "optimizer", "trainer")
    return {**{section: kept[section] for section in order if kept.get(section)}, "seed": settings.seed}


def model_card(name: str, entry: Shipped, file: Path, settings: Settings, scores: Scores, limits: Sequence[str], machine: str) -> str:
    """Return the model card, Markdown with the front matter of the Hugging Face Hub."""
    data = read_card(settings.data.card)
    facts = {"license": entry.licence, "library_name": "stpredict", "tags": ["stpredict", "video-prediction", entry.network]}
    step = read_header(file)["provenance"].get("step")
    kept = "the end" if step is None or step == entry.steps else f"step {step:,}, at which the validation score was best"
    changed = {key: value for key, value in recipe_of(settings)["data"].items() if key in ("every", "crop", "resize", "settings")}
    threads = "" if settings.trainer.threads is None else f", {settings.trainer.threads} thread(s)"
    scored = f" --data {entry.data} --split {entry.split} --limit {entry.clips}{' --root FOLDER' if data.needs_files else ''}"
    paragraphs = [
        f"---\n{yaml.safe_dump(facts, sort_keys=False)}---\n# {name}",
        f"{entry.about}\n\n![observed and true, forecast and error, beside the best baseline]({name}.gif)",
        "## Use",
        f'```python\nimport stpredict\n\npredictor = stpredict.load_predictor("{name}")\n'
        f"future = predictor.forecast(observed, {scores.horizon})  # (B, frames, channels, height, width), NaN = missing\n```",
        f"In a command, `{name}` stands wherever a predictor does; in a config, `network.weights: {name}` trains it further.",
        "## Data and licence",
        f"- Card: `{entry.data}`, {data.title}\n- Source: {data.source or 'not known'}\n"
        f"- Licence of the data: {data.licence or 'not known'}\n- Licence of the weights: {entry.licence}"
        + (f"\n- Changed in the card: {', '.join(f'{key} {value}' for key, value in changed.items())}" if changed else ""),
        "## Scores",
        f"{scores.clips} clips of the split `{scores.split}` (hash `{scores.hash}`), {scores.context} + {scores.horizon} frames, protocol "
        f"`{scores.protocol}`, units {scores.units}, by stpredict {scores.version}, of this very file, whose weights are rounded to bf16. "
        "Figures on other clips are not comparable.",
        scores.markdown().strip(),
        per_lead(scores, entry.score),
        "## Cost",
        f"{entry.steps:,} training steps of {settings.data.batch_size} clips in {entry.seconds / 60:.1f} minutes on the clock, "
        f"validation included{threads}{f', {machine}' if machine else ''}. The weights are those of {kept}.",
        "## Recipe",
        f"```yaml\n# {name}.yaml\n{dump_config(recipe_of(settings))}```",
        "## To reproduce",
        f"```sh\nstpredict train {name}.yaml{' --data.root FOLDER' if data.needs_files else ''}\nstpredict evaluate {name}{scored}\n```",
        "## Limits",
        "\n".join(f"- {sentence}" for sentence in limits),
        "## Facts",
        f"```\n{describe_predictor(file)}\n```",
    ]
    return "\n\n".join(paragraphs) + "\n"


def per_lead(scores: Scores, score: str) -> str:
    """Return a table of a score by lead, a row for each predictor."""
    leads = range(1, scores.horizon + 1)
    lines = [f"`{score}` by lead", "", "| predictor | " + " | ".join(map(str, leads)) + " |", "|---|" + "---:|" * scores.horizon]
    lines += [f"| {name} | " + " | ".join(f"{value:.4g}" for value in by[score]["per_lead"]) + " |" for name, by in scores.scores.items()]
    return "\n".join(lines)


def _entry(
    about: str,
    file: Path,
    predictor: Predictor,
    settings: Settings,
    run: Run,
    scores: Scores,
    best: str,
    score: str,
    licence: str,
) -> Shipped:
    rows = [row for row in read_log(run.folder / "log.csv") if "seconds" in row]
    if not rows:
        raise UserError(f"{run.folder / 'log.csv'} does not say what the training cost: only a run with its log can be shipped")
    ours = scores.scores[predictor.name][score]
    return Shipped(
        about=about,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        size=file.stat().st_size,
        network=predictor.network_name,
        weights=sum(weight.numel() for weight in predictor.network.parameters()),
        data=str(strip_paths(settings.data.card)),
        split=scores.split,
        clips=scores.clips,
        protocol=scores.protocol,
        score=score,
        mean=ours["mean"],
        interval=(ours["interval"][0], ours["interval"][1]),
        baseline=best,
        baseline_mean=scores.scores[best][score]["mean"],
        steps=int(rows[-1]["step"]),
        seconds=rows[-1]["seconds"],
        licence=licence,
    )


def _standing_limits(predictor: Predictor, clips: ClipSet) -> list[str]:
    spec = predictor.spec
    return [
        f"It has seen frames of {spec.height} x {spec.width} pixels of `{clips.card}` alone, in units of {spec.units}; other frames "
        "must be brought to that scale and size first, and what moves otherwise is new to it.",
        f"It was trained to forecast {predictor.horizon} frames from {predictor.context}; it forecasts more, and worse with every lead.",
        "It knows one future: where several are possible it forecasts their mean, which is blurred.",
    ]


def _typical(scores: Scores, name: str, score: str) -> int:
    """Return the clip whose score is the median one, so that the film flatters nobody."""
    return scores.selected[score][name]["median"]


def _narrow(weight: torch.Tensor) -> torch.Tensor:
    return weight.to(torch.bfloat16) if weight.is_floating_point() else weight


def _default(kind: type[Any], key: str) -> Any:
    """Return the default of a setting, as plain data has it."""
    field = next(one for one in fields(kind) if one.name == key)
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return list(default) if isinstance(default, tuple) else default


def _parser() -> argparse.ArgumentParser:
    example = (
        "example:\n  python tools/ship.py runs/demo-1 --name moving-digits-predrnn-s --about 'A small PredRNN for one digit that moves'\n"
        "  python tools/ship.py runs/mnist --name moving-mnist-predrnn-s --about '...' --root ~/mnist --split generated"
    )
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="ship", description=__doc__, epilog=example, formatter_class=form, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a run that has ended")
    parser.add_argument("--name", required=True, help="what the predictor is to be called")
    parser.add_argument("--about", required=True, metavar="TEXT", help="what it is, in one line")
    parser.add_argument(
        "--limits", metavar="TEXT", action="append", default=[], help="one more sentence that its user should know; repeatable"
    )
    parser.add_argument("--machine", metavar="TEXT", default="", help="what it was trained on, such as 'one core of a laptop'")
    parser.add_argument("--licence", metavar="L", default="apache-2.0", help="of the weights (default: apache-2.0)")
    parser.add_argument("--root", metavar="FOLDER", type=Path, help="where the files of its card are")
    parser.add_argument("--split", default="test", help="what is scored (default: test)")
    parser.add_argument("--limit", metavar="N", type=int, help="score the first N clips only")
    parser.add_argument("--score", default="mse_sum", help="the score by which it is told in one line (default: mse_sum)")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="where to (default: stpredict/shipped)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
