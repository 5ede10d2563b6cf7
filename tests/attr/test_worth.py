"""What a coalition is worth over a weighted background, by a link: against the definition."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

import fastxai
from fastxai import KernelShap, ShapleyValues, ShapleyValueSampling

GENERATOR = torch.Generator().manual_seed(0)
X, BACKGROUND = (torch.randn(n, 4, generator=GENERATOR).double() for n in (3, 5))
WEIGHTS = torch.tensor([3.0, 0, 1, 2, 0.5]).double()


def model(z):  # [n, 4] -> [n, 2], probabilities
    return torch.stack([z[:, 0] * z[:, 1] + z[:, 2].tanh() * z[:, 3], z.prod(1)], 1).sigmoid()


def by_definition(weights, link):  # -> [B, 2, 4]
    """Σ_S |S|! (M − |S| − 1)! / M! · (v(S ∪ i) − v(S)), v(S) = link(Σ_k w_k f(row_k))."""
    weights = (weights / weights.sum(0)).double().reshape(5, -1)

    def v(x, present):
        rows = torch.where(torch.tensor([i in present for i in range(4)]), x, BACKGROUND)
        return link((weights * model(rows)).sum(0))

    phi = torch.zeros(3, 2, 4, dtype=torch.float64)
    for b, x in enumerate(X):
        for i in range(4):
            others = [j for j in range(4) if j != i]
            for size in range(4):
                share = math.factorial(size) * math.factorial(3 - size) / math.factorial(4)
                for s in combinations(others, size):
                    phi[b, :, i] += share * (v(x, {*s, i}) - v(x, s))
    return phi


ASKED = [
    (KernelShap, {"n_samples": 16, "tier": "fast"}),
    (ShapleyValues, {}),
    (ShapleyValueSampling, {"n_samples": 2000, "seed": 0}),
]
LINKS = {
    "identity": lambda p: p,
    "logit": torch.logit,
    "of numpy's": lambda p: np.sqrt(np.asarray(p)),
}


@pytest.mark.parametrize("method,options", ASKED)
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("limit", [None, 7])  # 7 rows cut coalitions of 5 apart
@pytest.mark.parametrize("each", [False, True])
def test_values_are_those_of_the_definition(method, options, link, limit, each):
    weights = torch.stack([WEIGHTS, WEIGHTS.flip(0)], 1) if each else WEIGHTS
    as_tensor = lambda p: torch.as_tensor(LINKS[link](p))  # noqa: E731
    expected = by_definition(weights, as_tensor)
    found = method(model).explain(
        X,
        background=BACKGROUND,
        background_weights=weights,
        link=LINKS[link] if link == "of numpy's" else link,
        perturbations_per_eval=limit,
        **options,
    )
    atol = 6e-2 if method is ShapleyValueSampling else 1e-10
    torch.testing.assert_close(found.values, expected, atol=atol, rtol=0)
    torch.testing.assert_close(found.values.sum(2), expected.sum(2), atol=1e-10, rtol=0)
    means = (weights / weights.sum(0)).double().reshape(5, -1).mul(model(BACKGROUND)).sum(0)
    torch.testing.assert_close(found.baseline_outputs, as_tensor(means).expand(3, 2))
    assert found.convergence_delta.abs().max() < 1e-10


@pytest.mark.parametrize("method,options", ASKED)
def test_equal_weights_are_no_weights(method, options):
    one, other = (
        method(model).attribute(X, background=BACKGROUND, background_weights=w, **options)
        for w in (None, torch.full((5,), 7))
    )
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("method,options", ASKED)
@pytest.mark.parametrize(
    "bad,match",
    [
        ({"background_weights": WEIGHTS[:4]}, r"background_weights: expected shape \(5\)"),
        ({"background_weights": -WEIGHTS}, "background_weights: expected finite numbers of at"),
        ({"background_weights": 0 * WEIGHTS}, "background_weights: .* not all of them 0"),
        ({"background_weights": ["a"] * 5}, "background_weights: expected numbers"),
        ({"background": None, "background_weights": WEIGHTS}, "background_weights: .*background"),
        ({"baselines": 0}, "background: expected no baselines"),
        ({"link": "probit"}, "link: expected 'identity', 'logit' or a function, got 'probit'"),
    ],
)
def test_bad_arguments_are_named_before_the_model_is_called(method, options, bad, match):
    calls = []
    asked = method(lambda z: (calls.append(len(z)), model(z))[1])
    with pytest.raises(fastxai.ArgumentError, match=match):
        asked.attribute(X, **{"background": BACKGROUND} | bad | options)
    assert not calls


@pytest.mark.parametrize("method,options", ASKED)
def test_weights_of_outputs_are_as_many_as_outputs(method, options):
    for columns, target in ((3, None), (2, 1)):
        weights = np.ones((len(BACKGROUND), columns))
        with pytest.raises(fastxai.ArgumentError, match=r"background_weights: .* that are expl"):
            method(model).attribute(
                X, target=target, background=BACKGROUND, background_weights=weights, **options
            )


def test_a_link_gives_a_number_for_each():
    with pytest.raises(fastxai.ArgumentError, match="link: expected a number for each"):
        ShapleyValues(model).attribute(X, background=BACKGROUND, link=lambda p: p.sum())


@pytest.mark.parametrize("method", [KernelShap, ShapleyValues, ShapleyValueSampling])
def test_a_link_that_does_not_fit_the_outputs_is_told(method):
    x, background = torch.randn(2, 3), torch.randn(4, 3)
    with pytest.raises(fastxai.ArgumentError, match=r"link: .*probabilities.*'logit', got -"):
        method(lambda z: -5 - z[:, 0].abs()).attribute(x, background=background, link="logit")
    refused = pytest.raises(fastxai.ArgumentError, match=r"link: expected .*finite.*got nan for -")
    with refused, np.errstate(invalid="ignore"):
        method(lambda z: -5 - z[:, 0].abs()).attribute(x, background=background, link=np.log)
