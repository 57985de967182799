"""How sure is a score? Intervals by the Poisson bootstrap, which needs neither the clips again nor memory for them.

In each of many replicates a clip counts as often as a Poisson number of mean 1 says, as in a set drawn with replacement from endlessly
many. The number is a function of the seed and the clip alone. So batches, order and processes change nothing, and all predictors
and scores see the same replicates: their differences are paired.

Sources: Efron and Tibshirani, An introduction to the bootstrap (1993): percentiles; Oza and Russell, Online bagging and boosting
(AISTATS 2001); Chamandy et al., Estimating uncertainty for massive data streams (Google, 2012).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from stpredict import draws

Numbers = NDArray[np.float64]

REPLICATES = 1000
LEVEL = 0.95

# The last is 1 - 2**-53, the greatest uniform number that there is, or rounds to 1.
_CHANCES = np.array(list(accumulate(math.exp(-1.0) / math.factorial(number) for number in range(18))))


@dataclass(frozen=True)
class Draw:
    """How often each clip of a batch counts in each replicate.

    Attributes:
        units: ``(B,)`` what is drawn as a whole: the clip's own number, or that of the film which it is of.
        times: ``(R, B)`` how often; the same for clips of one unit.
    """

    units: NDArray[np.int64]
    times: Numbers


def draw_units(units: Sequence[int] | NDArray[np.int64], seed: int = 0, replicates: int = REPLICATES) -> Draw:
    """Draw how often clips of these units count, each number a function of the seed and the unit."""
    numbers = np.asarray(units, dtype=np.int64)
    different, place = np.unique(numbers, return_inverse=True)
    rows = [draws.uniform(seed, "bootstrap", 0, int(unit), replicates) for unit in different]
    times = np.searchsorted(_CHANCES, np.stack(rows), side="right").astype(np.float64)
    return Draw(numbers, times[place].T)


def interval_of(replicates: Numbers) -> Numbers:
    """Return lower and upper ends ``(2, ...)`` of the 95 % intervals of ``(R, ...)``.

    Replicates that are not finite, such as those in which nothing was valid, say nothing and are left out; NaN where none is left.
    """
    columns = replicates.reshape(len(replicates), -1).T
    tail = 100 * (1 - LEVEL) / 2
    ends = np.full((2, len(columns)), np.nan)
    for number, column in enumerate(columns):
        finite = column[np.isfinite(column)]
        if len(finite):
            ends[:, number] = np.percentile(finite, [tail, 100 - tail])
    return ends.reshape(2, *replicates.shape[1:])
