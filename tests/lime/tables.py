"""A table of numbers and a kind, functions of its rows, and names that were found."""

import numpy as np

RNG = np.random.default_rng(0)
NAMES = ["age", "income", "kind", "height"]
X = np.stack(
    [
        RNG.normal(40, 12, 500),
        RNG.exponential(3, 500),
        RNG.choice([0.0, 1, 2], 500, p=[0.2, 0.5, 0.3]),
        RNG.normal(size=500).round(1),
    ],
    1,
)
Y = (X[:, 0] + 5 * X[:, 2] + RNG.normal(size=500) > 45).astype(int)
ROW = X[7]
KINDS = {"categorical_features": [2], "categorical_names": {2: ["red", "green", "blue"]}}


def values(x):
    return np.tanh((x[:, 0] - 40) / 20) + 0.3 * (x[:, 2] == 1) - 0.2 * x[:, 1] + 0.1 * x[:, 3] ** 2


def probabilities(x):
    p = 1 / (1 + np.exp(-values(x)))
    return np.stack([1 - p, 0.75 * p, 0.25 * p], 1)


FUNCTIONS = {"classification": probabilities, "regression": values}


def by_column(found):
    """The name of each column."""
    names = [name for name, _ in found.as_list()]
    return dict(zip([column for column, _ in found.as_map()[1]], names, strict=True))
