import numpy as np
import pytest
import torch

from fastxai import ArgumentError
from fastxai.core.estimate import quadrature

CPU = torch.device("cpu")


def nodes(method: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    alphas, weights = quadrature.rule(method, n, CPU)
    assert alphas.dtype == weights.dtype == torch.float64
    return alphas.numpy(), weights.numpy()


@pytest.mark.parametrize("n", [1, 2, 3, 8, 50, 129])
def test_gauss_legendre_equals_numpy(n):
    alphas, weights = nodes("gausslegendre", n)
    x, w = np.polynomial.legendre.leggauss(n)
    np.testing.assert_allclose(alphas, 0.5 * (1 + x), atol=1e-14)
    np.testing.assert_allclose(weights, 0.5 * w, atol=1e-14)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_gauss_legendre_is_exact_for_polynomials(n):
    alphas, weights = nodes("gausslegendre", n)
    for degree in range(2 * n):
        assert weights @ alphas**degree == pytest.approx(1 / (degree + 1), abs=1e-14)
    assert weights @ alphas ** (2 * n) != pytest.approx(1 / (2 * n + 1), abs=1e-12)


def test_gauss_legendre_with_ten_thousand_nodes():
    alphas, weights = nodes("gausslegendre", 10_000)
    assert (np.diff(alphas) > 0).all() and alphas[0] > 0 and alphas[-1] < 1
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert weights @ np.exp(alphas) == pytest.approx(np.e - 1, abs=1e-12)


@pytest.mark.parametrize(
    ("method", "alphas", "weights"),
    [
        ("riemann_left", [0, 0.25, 0.5, 0.75], [0.25] * 4),
        ("riemann_right", [0.25, 0.5, 0.75, 1], [0.25] * 4),
        ("riemann_middle", [0.125, 0.375, 0.625, 0.875], [0.25] * 4),
        ("riemann_trapezoid", [0, 1 / 3, 2 / 3, 1], [0.125, 0.25, 0.25, 0.125]),
    ],
)
def test_riemann_rules(method, alphas, weights):
    found = nodes(method, 4)
    np.testing.assert_allclose(found[0], alphas, atol=1e-15)
    np.testing.assert_allclose(found[1], weights, atol=1e-15)


@pytest.mark.parametrize("method", quadrature.METHODS)
@pytest.mark.parametrize("n", [2, 7, 50])
def test_rules_equal_captum(method, n):
    captum = pytest.importorskip("captum.attr._utils.approximation_methods")
    steps, positions = captum.approximation_parameters(method)
    alphas, weights = nodes(method, n)
    np.testing.assert_allclose(alphas, positions(n), atol=1e-7)  # Captum's nodes are float32
    np.testing.assert_allclose(weights, steps(n), atol=1e-14)


def test_a_rule_first_used_in_inference_mode_serves_afterwards():
    with torch.inference_mode():
        quadrature.rule("riemann_left", 77, CPU)
    alphas, _ = quadrature.rule("riemann_left", 77, CPU)
    assert not alphas.is_inference()


@pytest.mark.parametrize(
    ("method", "n", "named"),
    [
        ("simpson", 4, "method"),
        (None, 4, "method"),
        ("riemann_left", 0, "n_steps"),
        ("riemann_trapezoid", 1, "n_steps"),
        ("gausslegendre", -1, "n_steps"),
        ("gausslegendre", 2.5, "n_steps"),
        ("gausslegendre", True, "n_steps"),
    ],
)
def test_bad_rules_name_the_argument(method, n, named):
    with pytest.raises(ArgumentError, match=f"^{named}: expected"):
        quadrature.rule(method, n, CPU)
