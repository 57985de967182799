"""The demo from end to end: forecast with a shipped predictor, train it further on what it has not seen, score it, film it, tell it."""

from __future__ import annotations

import sys
from pathlib import Path

from stpredict.data import load_data
from stpredict.evaluation import evaluate
from stpredict.page import report
from stpredict.predictor import load_predictor
from stpredict.showing import render_clips
from stpredict.training import load_settings, train

SHIPPED = "moving-digits-predrnn-s"
RECIPE = "moving_digits/two_digits"


def main() -> int:
    """Run the demo in the next free folder runs/demo-N, and say in words what came of it."""
    shipped, card = load_predictor(SHIPPED), "moving_digits"
    known = load_data(card, split="test", context=shipped.context, horizon=shipped.horizon, **shipped.data_changes(card))
    first = Path("runs", f"{SHIPPED}.mp4")
    first.parent.mkdir(exist_ok=True)
    render_clips([shipped], known, [0], first)
    print(f"What the shipped predictor '{SHIPPED}' forecasts of one digit:  {first}", flush=True)

    settings = load_settings(RECIPE, ["--name=demo"])
    run = train(settings)
    if run.exit_code:
        print(f"Interrupted; go on with: stpredict resume {run.folder}", file=sys.stderr)
        return run.exit_code

    predictor = load_predictor(run.folder)
    clips = load_data(settings.data.card, settings.data.root, "test", **settings.data.window())
    scores = evaluate([predictor, shipped], clips, progress=True)
    scores.write(run.folder / "scores.json")
    render_clips([predictor, shipped], clips, [0], run.folder / "film.mp4")
    page = report([run.folder, run.folder / "scores.json"], run.folder / "page", progress=True)

    errors = {name: by_score["mse"]["mean"] for name, by_score in scores.scores.items()}
    ours, before = errors.pop(predictor.name), errors.pop(shipped.name)
    best = min(errors, key=lambda name: errors[name])
    print("The predictor that was trained further on two digits, on clips that it never saw:")
    print(f"its mean squared error is {ours:.5f}; before it was {before:.5f}, so it is now {ours / before:.2f} times that,")
    print(f"and {ours / errors[best]:.2f} times that of the best of {len(errors)} trivial answers, '{best}' ({errors[best]:.5f}).")
    print(f"The film of the prediction beside the truth:  {run.folder / 'film.mp4'}")
    print(f"All scores:                                   {run.folder / 'scores.json'}")
    print(f"A page of all of it, to open in a browser:    {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
