"""Pictures: films and strips of panels side by side, maps, and curves."""

from __future__ import annotations

from stpredict.render.curves import save_curves
from stpredict.render.film import save_film
from stpredict.render.geography import Geography
from stpredict.render.gradients import save_gradients
from stpredict.render.panels import Panel

__all__ = ["Geography", "Panel", "save_curves", "save_film", "save_gradients"]
