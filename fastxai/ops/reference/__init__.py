"""The ops in plain PyTorch: what every kernel must agree with, and what runs without a library.

Same names, arguments and errors as the native ops in ``csrc/library.cpp``. A module for each op has
the op, what it refuses, and what torch must know of it beside: the shape of its result, and its
gradients where it has any.
"""

from .ablate_one import ablate_one
from .coalition_gram import coalition_gram
from .coalition_rhs import coalition_rhs
from .coalitions import coalitions
from .group_linear import group_linear
from .lasso import lasso
from .noisy_points import noisy_points
from .noisy_reduce import noisy_reduce
from .path_points import path_points
from .path_reduce import path_reduce
from .perturb import perturb

__all__ = [
    "ablate_one",
    "coalition_gram",
    "coalition_rhs",
    "coalitions",
    "group_linear",
    "lasso",
    "noisy_points",
    "noisy_reduce",
    "path_points",
    "path_reduce",
    "perturb",
]
