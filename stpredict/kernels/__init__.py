"""How convolutions are computed: by torch alone, or by faster forms of the same sums where there are any."""

from __future__ import annotations

from stpredict.kernels.choice import Kernels, choose, chosen, in_use, using
from stpredict.kernels.convolution import convolve, may_replace
from stpredict.kernels.products import multiply
from stpredict.kernels.winograd import forget

__all__ = ["Kernels", "choose", "chosen", "convolve", "forget", "in_use", "may_replace", "multiply", "using"]
