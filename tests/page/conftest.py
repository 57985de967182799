"""A story with any number of predictors and clips, whose films show the number of each frame by its brightness."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from stpredict.page.story import FilmStory, Run, Sheet, Story
from stpredict.showing import ClipFilms, PanelFilm

CONTEXT, HORIZON, RATE, SIDE = 3, 5, 5, 32
BASELINES = ("persistence", "extrapolation")


def brightness(frame: int) -> int:
    """Return the gray of a frame, far from that of its neighbours."""
    return 20 + 28 * frame


def write_film(path: Path, pictures: Sequence[NDArray[np.uint8]], rate: int = RATE) -> None:
    """Write pictures ``(H, W, 3)`` as H.264, every one a key frame."""
    height, width, _ = pictures[0].shape
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as file:
        stream = file.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "ultrafast", "g": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())


def numbers(place: int, horizon: int = HORIZON) -> dict[str, Any]:
    """Return the numbers of a score that grow with the lead and with the place of the predictor."""
    leads = [0.01 * (place + 1) * math.sqrt(lead + 1) for lead in range(horizon)]
    mean = sum(leads) / horizon
    return {
        "mean": mean,
        "interval": [0.95 * mean, 1.05 * mean],
        "per_lead": leads,
        "per_lead_interval": [[0.9 * lead for lead in leads], [1.1 * lead for lead in leads]],
    }


def spectrum(place: int) -> dict[str, Any]:
    parts = {
        f"{64 / wave:g} px": {"mean": 1 / (1 + place * wave / 8), "interval": None, "per_lead": [0.5] * HORIZON} for wave in range(1, 17)
    }
    return {"mean": 0.5, "interval": [0.4, 0.6], "per_lead": [0.5] * HORIZON, "parts": parts}


def sheet_of(predictors: Sequence[str], heading: str = "Moving squares, test") -> Sheet:
    """Return a sheet: the first predictor is the best by mse, the last one by ssim; ``csi`` has parts."""
    everybody = [*predictors, *BASELINES]
    scores: dict[str, Any] = {}
    for place, name in enumerate(everybody):
        ssim, csi = numbers(place), numbers(place)
        csi["parts"] = {part: numbers(place + 3) for part in ("0.5", "2")}
        scores[name] = {"mse": numbers(place), "ssim": ssim, "csi": csi, "power_ratio": spectrum(place)}
    return Sheet(
        heading,
        {
            "protocol": "per-pixel",
            "data": {
                "card": "squares",
                "split": "test",
                "hash": "c0ffee",
                "clips": 40,
                "context": CONTEXT,
                "horizon": HORIZON,
                "units": "1",
                "time_step": 300.0,
            },
            "predictors": {name: {"kind": "baseline" if name in BASELINES else "predictor"} for name in everybody},
            "scores": scores,
            "better": {"mse": "lower", "ssim": "higher", "csi": "higher"},
            "resample": "clips",
            "selected": {"mse": {name: {"best": 0, "median": 1, "worst": 7} for name in everybody}},
            "over": {
                "name": "persistence",
                "skill": {name: {"mse": {"value": 0.3, "low": 0.2, "high": 0.4}} for name in predictors},
                "differences": {name: {"mse": {"value": -0.02, "low": -0.03, "high": -0.01}} for name in predictors},
            },
            "published": {"A paper <b>1</b>": {"page": "https://example.org/a", "scores": {"mse": 0.0123}}},
            "version": "0.1.0",
        },
    )


@pytest.fixture(scope="session")
def make_story() -> Callable[..., Story]:
    """Return a function that writes films into a folder and returns their story."""

    def make(folder: Path, names: Sequence[str] = ("convlstm", "predrnn"), clips: int = 2, **changes: Any) -> Story:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = [np.full((SIDE, SIDE, 3), brightness(frame), np.uint8) for frame in range(CONTEXT + HORIZON)]
        write_film(folder / "one.mp4", pictures)
        data = (folder / "one.mp4").read_bytes()
        films = []
        for clip in range(clips):
            panels = [PanelFilm("true", "truth", None, f"clip{clip}-0.mp4")]
            for name in names:
                panels.append(PanelFilm(name, "forecast", name, f"clip{clip}-{len(panels)}.mp4"))
                panels.append(PanelFilm(f"{name} - true", "error", name, f"clip{clip}-{len(panels)}.mp4"))
            for panel in panels:
                (folder / panel.file).write_bytes(data)
            captions = [
                f"observed {frame + 1} of {CONTEXT}" if frame < CONTEXT else f"lead {frame - CONTEXT + 1}"
                for frame in range(CONTEXT + HORIZON)
            ]
            shown = ClipFilms(clip, f"film {clip}", tuple(panels), CONTEXT + HORIZON, CONTEXT, SIDE, SIDE, float(RATE), tuple(captions), ())
            films.append(FilmStory(f"clip {clip} by mse", 0, shown, {name: "mse 0.0123" for name in names}, {"true": "what happened"}))
        (folder / "one.mp4").unlink()
        runs = tuple(
            Run(
                name,
                config="network: x\n",
                facts={"data": "squares", "network": name, "parameters": f"{place + 1} M"},
                curves={"loss": [(step, 1 / (1 + step)) for step in range(0, 50, 5)], "valid_mse": [(10, 0.5), (20, math.nan), (30, 0.25)]},
                commands=(f"stpredict train {place}.yaml", "stpredict evaluate"),
            )
            for place, name in enumerate(names)
        )
        told: dict[str, Any] = {
            "title": "A story", "lead": "What there is to see.", "runs": runs, "sheets": (sheet_of(names),), "films": tuple(films),
            "provenance": {"stpredict": "0.1.0"},
        }  # fmt: skip
        return Story(**{**told, **changes})

    return make
