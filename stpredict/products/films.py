"""Products as films and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stpredict.products.contents import Nowcast
from stpredict.render import Panel
from stpredict.showing import show_panels


def write_film(path: Path, nowcast: Nowcast) -> None:
    """Write the observed frames and the forecast as one film."""
    film = np.concatenate([nowcast.observed, nowcast.forecast])
    show_panels([Panel(nowcast.predictor, film)], nowcast.spec, path, context=len(nowcast.observed), times=nowcast.times)
