"""Pictures: films and strips of panels side by side, bare films, maps, and curves."""

from __future__ import annotations

from stpredict.render.bare import BareFilms, save_bare_films
from stpredict.render.curves import save_curves
from stpredict.render.film import save_film
from stpredict.render.geography import Geography
from stpredict.render.gradients import save_gradients
from stpredict.render.panels import Panel
from stpredict.render.written import Film

__all__ = ["BareFilms", "Film", "Geography", "Panel", "save_bare_films", "save_curves", "save_film", "save_gradients"]
