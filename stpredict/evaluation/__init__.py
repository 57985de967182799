"""Scores of predictors over the clips of a split, beside those of the baselines."""

from __future__ import annotations

from stpredict.evaluation.contestants import Forecaster
from stpredict.evaluation.evaluating import Evaluation, evaluate, prepare
from stpredict.results import Scores

__all__ = ["Evaluation", "Forecaster", "Scores", "evaluate", "prepare"]
