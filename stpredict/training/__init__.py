"""Training: settings, the loop, and the folder that a run writes."""

from stpredict.training.loop import resume, train
from stpredict.training.run import INTERRUPTED, Run
from stpredict.training.settings import Settings, load_settings, make_settings

__all__ = ["INTERRUPTED", "Run", "Settings", "load_settings", "make_settings", "resume", "train"]
