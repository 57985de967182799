"""What every test runs under: one thread, so that two test processes keep to two cores, and results do not hang on the machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

import hypothesis
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("house", max_examples=30, deadline=None, derandomize=True)
hypothesis.settings.load_profile("house")
