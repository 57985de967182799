"""The demo from end to end: train a small predictor, score it beside the no-skill baselines, film it, and tell all of it on a page."""

from __future__ import annotations

import sys

from stpredict.data import load_data
from stpredict.evaluation import evaluate
from stpredict.page import report
from stpredict.predictor import load_predictor
from stpredict.showing import render_clips
from stpredict.training import load_settings, train


def main() -> int:
    """Run the demo in the next free folder runs/demo-N, and say in words what came of it."""
    settings = load_settings("demo", [])
    run = train(settings)
    if run.exit_code:
        print(f"Interrupted; go on with: stpredict resume {run.folder}", file=sys.stderr)
        return run.exit_code

    predictor = load_predictor(run.folder)
    clips = load_data(settings.data.card, settings.data.root, "test", **settings.data.window())
    scores = evaluate([predictor], clips, progress=True)
    scores.write(run.folder / "scores.json")
    render_clips([predictor], clips, [0], run.folder / "film.mp4")
    page = report([run.folder], run.folder / "page", progress=True)

    errors = {name: by_score["mse"]["mean"] for name, by_score in scores.scores.items()}
    ours = errors.pop(predictor.name)
    best = min(errors, key=lambda name: errors[name])
    print(f"The predictor's mean squared error on clips that it never saw is {ours:.5f}.")
    print(f"That is {ours / errors[best]:.2f} times that of the best of {len(errors)} trivial answers, '{best}' ({errors[best]:.5f}).")
    print(f"The film of the prediction beside the truth:  {run.folder / 'film.mp4'}")
    print(f"All scores:                                   {run.folder / 'scores.json'}")
    print(f"A page of all of it, to open in a browser:    {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
