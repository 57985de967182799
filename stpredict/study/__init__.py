"""Studies: one question, variants of one recipe, several seeds, the same clips in the same order, and one table with intervals."""

from __future__ import annotations

from stpredict.study.plan import Scoring, Study, load_study
from stpredict.study.running import Outcome, run_study
from stpredict.study.summary import Summary, is_study, read_summary

__all__ = ["Outcome", "Scoring", "Study", "Summary", "is_study", "load_study", "read_summary", "run_study"]
