"""Linear fits to coalitions that every problem weighs in its own way, beside scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn import linear_model
from torch import Tensor

from fastxai import ArgumentError
from fastxai.core.coalition_bits import pack, unpack
from fastxai.core.estimate import lasso, linear_fits, local_regression
from fastxai.core.estimate.linear_fits import Lasso, LeastSquares, Ridge, fit_rows
from fastxai.core.estimate.local_regression import LocalRegression
from fastxai.core.estimate.sampling import bernoulli_pairs

FITS = {
    "lasso": (Lasso(0.05), linear_model.Lasso(0.05, tol=1e-14, max_iter=100_000)),
    "lasso without penalty": (Lasso(0), linear_model.LinearRegression()),
    "ridge": (Ridge(), linear_model.Ridge(alpha=1.0, solver="cholesky")),
    "heavy ridge": (Ridge(50.0), linear_model.Ridge(alpha=50.0, solver="cholesky")),
    "least squares": (LeastSquares(), linear_model.LinearRegression()),
}
EXACT = {"rtol": 1e-6, "atol": 1e-7}


@pytest.fixture(params=FITS)
def fits(request):
    return FITS[request.param]


def sklearn_coefficients(theirs, x: Tensor, weights: Tensor, y: Tensor) -> Tensor:
    """[M, C], fitted output by output."""
    columns = [theirs.fit(x.numpy(), c.numpy(), weights.numpy()).coef_ for c in y.unbind(1)]
    return torch.from_numpy(np.stack(columns, 1))


def problem(n: int, m: int, outputs: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of zeros and ones, weights, and values with a linear part and more."""
    torch.manual_seed(n * m)
    x = (torch.rand(n, m) < 0.5).double()
    bend = (x @ torch.randn(m, outputs).double()).sin()
    y = x @ torch.randn(m, outputs).double() + bend + 10 * torch.randn(outputs).double()
    return x, torch.rand(n).double().square(), y


@pytest.mark.parametrize(("n", "m"), [(200, 6), (40, 15), (12, 15), (2, 3), (1, 3), (30, 1)])
def test_rows_are_fitted_as_by_scikit_learn(fits, n, m):
    ours, theirs = fits
    x, weights, y = problem(n, m)
    expected = sklearn_coefficients(theirs, x, weights, y)
    torch.testing.assert_close(fit_rows(ours, x, weights, y), expected, **EXACT)
    torch.testing.assert_close(fit_rows(ours, x.bool(), weights, y), expected, **EXACT)


@pytest.mark.parametrize(("n", "m"), [(25, 40), (12, 30), (5, 40)])
def test_wide_problems_are_fitted_alike_without_a_gram_matrix(monkeypatch, fits, n, m):
    ours, theirs = fits
    x, weights, y = problem(n, m)
    monkeypatch.setattr(linear_fits, "_WIDE", m - 1)
    monkeypatch.setattr(linear_fits, "_BLOCK", 100)  # a few columns at a time
    monkeypatch.setattr(type(ours), "solve", None)
    monkeypatch.setattr(LeastSquares, "solve", None)
    found = fit_rows(ours, x.bool(), weights, y)
    if isinstance(ours, Lasso) and ours.alpha > 0:  # may have several minima
        assert_minimum_of_lasso(found, ours.alpha, x, weights, y)
    else:
        expected = sklearn_coefficients(theirs, x, weights, y)
        torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("alpha", [1e-5, 0.01, 0.3])
@pytest.mark.parametrize(("n", "m"), [(25, 40), (12, 30), (5, 40)])
@pytest.mark.parametrize("small", [128, 4])  # all columns at once, and few by few
def test_lasso_of_fewer_rows_than_columns(monkeypatch, alpha, n, m, small):
    monkeypatch.setattr(lasso, "_SMALL", small)
    x, weights, y = problem(n, m)
    assert_minimum_of_lasso(fit_rows(Lasso(alpha), x, weights, y), alpha, x, weights, y)


def test_a_player_that_matters_only_beside_another_is_let_in():
    gram = torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double()
    rhs = gram @ torch.tensor([1.0, -0.9]).double()  # [0.19, 0]: by itself the second is of no use
    found = lasso._lasso_of_many(gram, rhs, torch.zeros(2).double(), 1e-3)
    signs = torch.tensor([1.0, -1.0]).double()
    torch.testing.assert_close(rhs - gram @ found, 1e-3 * signs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(8))  # rounding decides whether a factor seems to exist
def test_columns_that_always_go_together_share_alike(seed):
    torch.manual_seed(seed)
    x = (torch.rand(60, 6) < 0.5).double()
    x[:, 5], x[:, 4] = x[:, 0], 1 - x[:, 1]
    y, weights = torch.randn(60, 2).double(), torch.rand(60).double()
    found = fit_rows(LeastSquares(), x, weights, y)
    torch.testing.assert_close(found[5], found[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[4], -found[1], rtol=1e-9, atol=1e-9)
    expected = sklearn_coefficients(linear_model.LinearRegression(), x, weights, y)
    torch.testing.assert_close(found, expected, **EXACT)


def assert_minimum_of_lasso(b: Tensor, alpha: float, x: Tensor, weights: Tensor, y: Tensor):
    """The slope of the squares is the penalty's where b is not zero, and no more elsewhere."""
    share = weights / weights.sum()
    x, y = x - share @ x, y - share @ y
    slope = x.T @ (share[:, None] * (y - x @ b))
    torch.testing.assert_close(slope[b != 0], alpha * b[b != 0].sign(), rtol=0, atol=1e-7)
    assert (slope.abs() <= alpha + 1e-7).all() and (b != 0).any()


def local(fit_problem, n=50, m=9, problems=4, outputs=2, start=0.0):
    """A regression with weights and values at random: it, the weights and the values."""
    torch.manual_seed(n + m + problems)
    bits = bernoulli_pairs(m, n, 5)
    slope = torch.randn(m, problems).double()
    z = unpack(bits, m).double()

    def weigh(z: Tensor, span: slice) -> Tensor:
        return (z @ slope[:, span]).exp()

    values = torch.randn(n, problems, outputs).double() + (z @ slope)[..., None] + start
    level = torch.full((problems, outputs), float(start), dtype=torch.float64)
    return LocalRegression(bits, m, weigh, level), z, weigh(z, slice(0, problems)), values


def expected_coefficients(fit, z: Tensor, weights: Tensor, values: Tensor) -> Tensor:
    pairs = zip(weights.unbind(1), values.unbind(1), strict=True)
    return torch.stack([fit_rows(fit, z, w, y) for w, y in pairs])


@pytest.mark.parametrize("n", [50, 51, 1, 2])
@pytest.mark.parametrize("problems", [1, 2, 5, 40])  # products made once, and for each problem
@pytest.mark.parametrize("block", [1 << 21, 64])
def test_problems_share_coalitions_and_weigh_them_differently(
    monkeypatch, fits, n, problems, block
):
    regression, z, weights, values = local(fits, n, problems=problems)
    expected = expected_coefficients(fits[0], z, weights, values)
    monkeypatch.setattr(local_regression, "_BLOCK", block)
    regression.add(values, slice(0, n), slice(0, problems))
    torch.testing.assert_close(regression.solve(fits[0]), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(regression.weights(slice(0, problems)), weights)


@pytest.mark.parametrize("room", [1 << 21, 200, 1])
def test_values_come_in_any_blocks(monkeypatch, room):
    regression, z, weights, values = local(None, 51, problems=5)
    monkeypatch.setattr(local_regression, "_BLOCK", room)
    for problems in (slice(0, 2), slice(2, 5)):
        for rows in (slice(0, 7), slice(7, 8), slice(30, 51), slice(8, 30)):
            regression.add(values[rows, problems], rows, problems)
    expected = expected_coefficients(LeastSquares(), z, weights, values)
    found = regression.solve(LeastSquares())
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(regression.solve(LeastSquares()), found, rtol=0, atol=0)


def test_out_of_memory_counts_nothing_twice(monkeypatch):
    regression, z, weights, values = local(None)
    monkeypatch.setattr(local_regression, "_BLOCK", 1)  # adds up at every block
    regression.add(values[:20], slice(0, 20), slice(0, 4))
    with monkeypatch.context() as patch:
        patch.setattr(local_regression, "unpack", lambda *args: [][0])
        with pytest.raises(IndexError):
            regression.add(values[20:], slice(20, 50), slice(0, 4))
    regression.add(values[20:35], slice(20, 35), slice(0, 4))
    regression.add(values[35:], slice(35, 50), slice(0, 4))
    expected = expected_coefficients(Ridge(), z, weights, values)
    torch.testing.assert_close(regression.solve(Ridge()), expected, rtol=1e-8, atol=1e-8)


def test_what_all_values_share_does_not_drown_the_rest():
    regression, z, weights, values = local(None, start=1e13)
    regression.add(values, slice(0, 50), slice(0, 4))
    expected = expected_coefficients(LeastSquares(), z, weights, values - 1e13)
    torch.testing.assert_close(regression.solve(LeastSquares()), expected, rtol=1e-9, atol=1e-9)


def test_half_precision_and_integer_values_are_added_in_float64():
    regression, z, weights, values = local(None)
    regression.add(values.half()[:20], slice(0, 20), slice(0, 4))
    regression.add(values.long()[20:], slice(20, 50), slice(0, 4))
    rounded = torch.cat([values.half()[:20].double(), values.long()[20:].double()])
    expected = expected_coefficients(LeastSquares(), z, weights, rounded)
    torch.testing.assert_close(regression.solve(LeastSquares()), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("fit", [LeastSquares(), Ridge(3.0), Lasso(0.02)])
def test_a_problem_that_is_not_finite_is_nan_and_spoils_no_other(fit):
    regression, z, weights, values = local(None, problems=4)
    weigh = regression._weigh
    regression._weigh = lambda z, span: weigh(z, span) * torch.tensor([1, torch.nan, 1, 1])[span]
    values[7, 3, 1] = torch.inf
    regression.add(values, slice(0, 50), slice(0, 4))
    found = regression.solve(fit)
    expected = expected_coefficients(fit, z, weights, values)
    fine = torch.ones(4, 9, 2, dtype=torch.bool)
    fine[1], fine[3, :, 1] = False, False
    assert found[~fine].isnan().all()
    torch.testing.assert_close(found[fine], expected[fine], rtol=1e-8, atol=1e-8)
    errors = regression.standard_errors(fit, found, values)
    assert errors[1].isnan().any() and errors[fine].isfinite().all()


@pytest.mark.parametrize("block", [1 << 21, 10])  # all problems together, and one by one
def test_weights_that_are_all_zero_are_told(monkeypatch, block):
    regression, _, _, values = local(None, problems=4)
    weights = torch.tensor([1.0, 1, 0, 1]).double()
    regression._weigh = lambda z, span: weights[span].expand(len(z), -1)
    regression.add(values, slice(0, 50), slice(0, 4))
    monkeypatch.setattr(local_regression, "_BLOCK", block)
    with pytest.raises(ArgumentError, match=r"similarity_func: .* none for row 2 of the inputs"):
        regression.solve(Lasso())
    with pytest.raises(ArgumentError, match=r"similarity_func: .* kernel too narrow"):
        fit_rows(Lasso(), torch.ones(3, 2), torch.zeros(3).double(), torch.ones(3, 1).double())


@pytest.mark.parametrize("fit", [LeastSquares(), Ridge(3.0), Lasso(0.02)])
@pytest.mark.parametrize("which", ["weights", "y"])
def test_a_wide_problem_that_is_not_finite_is_nan(monkeypatch, fit, which):
    monkeypatch.setattr(linear_fits, "_WIDE", 10)
    rows = dict(zip(("x", "weights", "y"), problem(8, 20), strict=True))
    expected = fit_rows(fit, **rows)
    rows[which][3] = torch.inf if which == "y" else torch.nan
    assert expected.isfinite().all() and fit_rows(fit, **rows).isnan().all()


@pytest.mark.parametrize("fit", [LeastSquares(), Ridge(2.0)])
@pytest.mark.parametrize("n", [60, 61])
@pytest.mark.parametrize("block", [1 << 21, 100])
def test_standard_errors_are_those_of_leaving_out_a_pair(monkeypatch, fit, n, block):
    regression, z, weights, values = local(None, n)
    regression.add(values, slice(0, n), slice(0, 4))
    found = regression.solve(fit)
    variance = torch.zeros_like(found)
    for first in range(0, n, 2):
        rest = [i for i in range(n) if i // 2 != first // 2]
        variance += (found - expected_coefficients(fit, z[rest], weights[rest], values[rest])) ** 2
    monkeypatch.setattr(local_regression, "_BLOCK", block)
    errors = regression.standard_errors(fit, found, values)
    torch.testing.assert_close(errors, variance.sqrt(), rtol=1e-7, atol=1e-9)


def test_standard_errors_of_a_lasso_are_of_least_squares_on_what_is_not_zero():
    fit = Lasso(0.05)
    regression, z, weights, values = local(None, 400, problems=2)
    regression.add(values, slice(0, 400), slice(0, 2))
    found = regression.solve(fit)
    assert 0.1 < (found == 0).double().mean() < 0.9
    errors = regression.standard_errors(fit, found, values)
    assert (errors[found == 0] == 0).all()
    for p in range(2):
        for c in range(2):
            active = found[p, :, c] != 0
            y, b = values[:, p, c][:, None, None], found[p, active, c][None, :, None]
            some = of_one_problem(z[:, active], weights[:, p])
            some.add(y, slice(0, 400), slice(0, 1))
            expected = some.standard_errors(LeastSquares(), b, y)[0, :, 0]
            torch.testing.assert_close(errors[p, active, c], expected, rtol=1e-9, atol=0)


def of_one_problem(z: Tensor, weights: Tensor) -> LocalRegression:
    """With these weights [N], whatever the coalitions [N, M]: they are asked for in order."""
    asked = 0

    def weigh(z: Tensor, span: slice) -> Tensor:
        nonlocal asked
        first, asked = asked, (asked + len(z)) % len(weights)
        return weights[first : first + len(z), None]

    return LocalRegression(pack(z.bool()), z.shape[1], weigh, torch.zeros(1, 1).double())


def test_too_few_pairs_for_standard_errors_give_nan():
    regression, _, _, values = local(None, n=10, m=9)
    regression.add(values, slice(0, 10), slice(0, 4))
    found = regression.solve(LeastSquares())
    assert found.isfinite().all()
    assert regression.standard_errors(LeastSquares(), found, values).isnan().all()


def test_no_problems():
    regression, _, _, _ = local(None, problems=0)
    assert regression.solve(Lasso()).shape == (0, 9, 2)


@pytest.mark.parametrize("fit", [Lasso, Ridge])
@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_penalties_are_checked(fit, alpha):
    with pytest.raises(ArgumentError, match=r"^alpha: expected a finite number of at least 0"):
        fit(alpha)
