"""What people look at: predicted films beside the real one, previews of data, and what a predictor is in words."""

from __future__ import annotations

from stpredict.showing.bare import ClipFilms, PanelFilm, clip_films
from stpredict.showing.clips import preview_clips, render_clips
from stpredict.showing.describing import describe_predictor
from stpredict.showing.maps import caption, find_geography, show_panels

__all__ = [
    "ClipFilms",
    "PanelFilm",
    "caption",
    "clip_films",
    "describe_predictor",
    "find_geography",
    "preview_clips",
    "render_clips",
    "show_panels",
]
