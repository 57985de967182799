"""What scoring found: numbers by predictor and score, as files and as tables."""

from __future__ import annotations

from stpredict.results.scores import WIDEST, Scores, compatible, differing, grouped, writer_of

__all__ = ["WIDEST", "Scores", "compatible", "differing", "grouped", "writer_of"]
