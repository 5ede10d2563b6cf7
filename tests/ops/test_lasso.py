import pytest
import torch
from torch.testing import assert_close

from fastxai import ops as fastxai_ops
from fastxai.ops import native, reference
from tests.ops.conftest import draw_coalitions


def draw_rows(draw, rows, players, outputs):
    """Weighted rows of 0 and 1, as LIME fits, and outputs that depend on a few players."""
    z = draw_coalitions(players, rows, "cpu")[1].to(draw(1).device)
    effects = draw(players, outputs, dtype=torch.float64)
    effects[4:] *= 0.01
    y = z @ effects + 0.1 * draw(rows, outputs, dtype=torch.float64)
    return z, y, draw(rows, dtype=torch.float64).exp()


def normal_equations(x, y, weights):
    weights = weights / weights.sum()
    x, y = x - weights @ x, y - weights @ y
    return (x.T @ (weights[:, None] * x))[None], (x.T @ (weights[:, None] * y))[None]


def draw_problems(draw, problems, players, outputs):
    x = draw(problems, 3 * players, players, dtype=torch.float64)
    y = draw(problems, 3 * players, outputs, dtype=torch.float64)
    return x.mT @ x / x.shape[1], x.mT @ y / x.shape[1]


# Many rows, and hardly more rows than players: the Gram matrix is almost singular.
@pytest.mark.parametrize("rows", [1000, 60])
@pytest.mark.parametrize("alpha", [0.1, 0.01, 1e-3])
def test_equals_scikit_learn(ops, draw, rows, alpha):
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y, weights = draw_rows(draw, rows, 49, 2)
    coefficients = ops.lasso(*normal_equations(x, y, weights), alpha, 1e-10, 10_000)
    x, y, weights = x.cpu().numpy(), y.cpu().numpy(), weights.cpu().numpy()
    for output in range(2):
        fit = linear_model.Lasso(alpha=alpha, tol=1e-13, max_iter=1_000_000)
        fit.fit(x, y[:, output], sample_weight=weights)
        expected = torch.from_numpy(fit.coef_)
        assert (expected != 0).sum() > 0
        assert_close(coefficients[0, :, output].cpu(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("alpha", [0.0, 0.02, 0.3])
def test_optimality_conditions(ops, draw, alpha):
    gram, rhs = draw_problems(draw, 3, 20, 4)
    coefficients = ops.lasso(gram, rhs, alpha, 1e-13, 10_000)
    assert coefficients.shape == rhs.shape
    assert coefficients.is_contiguous()
    gradient = rhs - gram @ coefficients
    is_active = coefficients != 0
    assert_close(gradient[is_active], alpha * coefficients[is_active].sign(), rtol=0, atol=1e-12)
    assert (gradient[~is_active].abs() <= alpha + 1e-12).all()
    assert is_active.all() == (alpha == 0)


def test_kernel_equals_reference(native_ops, draw):
    for players, outputs in ((1, 1), (7, 3), (49, 1), (65, 2)):
        gram, rhs = draw_problems(draw, 2, players, outputs)
        for alpha, sweeps in ((0.02, 10_000), (0.3, 1), (0, 3)):
            case = gram, rhs, alpha, 1e-9, sweeps
            expected = reference.lasso(*case)
            assert_close(native_ops.lasso(*case), expected, rtol=1e-12, atol=1e-13)


def test_a_diagonal_matrix_shrinks_each_coefficient(ops, draw):
    rhs = draw(2, 9, 3, dtype=torch.float64)
    diagonal = draw(2, 9, dtype=torch.float64).abs() + 0.5
    coefficients = ops.lasso(diagonal.diag_embed(), rhs, 0.4, 1e-10, 10)
    expected = rhs.sign() * (rhs.abs() - 0.4).clamp(min=0) / diagonal[..., None]
    assert_close(coefficients, expected, rtol=1e-15, atol=0)


def test_without_a_penalty_it_is_least_squares(ops, draw):
    gram, rhs = draw_problems(draw, 3, 12, 2)
    coefficients = ops.lasso(gram, rhs, 0.0, 1e-14, 10_000)
    assert_close(coefficients, torch.linalg.solve(gram, rhs), rtol=1e-10, atol=1e-10)


def test_a_large_penalty_leaves_nothing(ops, draw):
    gram, rhs = draw_problems(draw, 2, 12, 3)
    assert (ops.lasso(gram, rhs, rhs.abs().max().item(), 1e-10, 100) == 0).all()
    nearly = ops.lasso(gram, rhs, 0.999 * rhs.abs().max().item(), 1e-10, 100)
    assert (nearly != 0).sum() == 1


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_players_that_never_change_have_no_coefficient(ops, draw, alpha):
    gram, rhs = draw_problems(draw, 2, 6, 2)
    expected = ops.lasso(gram, rhs, alpha, 1e-12, 1000)
    wider, longer = rhs.new_zeros(2, 8, 8), rhs.new_zeros(2, 8, 2)
    kept = [0, 1, 3, 4, 5, 7]
    wider[:, torch.tensor(kept)[:, None], kept] = gram
    longer[:, kept] = rhs
    longer[:, 2] = 5.0  # can only be rounding errors
    coefficients = ops.lasso(wider, longer, alpha, 1e-12, 1000)
    assert (coefficients[:, [2, 6]] == 0).all()
    assert_close(coefficients[:, kept], expected, rtol=1e-9, atol=1e-11)
    assert (ops.lasso(torch.zeros_like(gram), rhs, alpha, 1e-12, 1000) == 0).all()


def test_units_do_not_matter(ops, draw):
    gram, rhs = draw_problems(draw, 2, 20, 3)
    expected = ops.lasso(gram, rhs, 0.05, 1e-6, 1000)
    for unit in (2.0**-60, 2.0**60):
        of_y = ops.lasso(gram, rhs * unit, 0.05 * unit, 1e-6, 1000)
        assert_close(of_y / unit, expected, rtol=0, atol=0)
        of_x = ops.lasso(gram * unit**2, rhs * unit, 0.05 * unit, 1e-6, 1000)
        assert_close(of_x * unit, expected, rtol=0, atol=0)


def test_problems_and_outputs_are_solved_apart(ops, draw):
    gram, rhs = draw_problems(draw, 3, 20, 4)
    gram[1] += 3  # converges slowly
    together = ops.lasso(gram, rhs, 0.02, 1e-5, 1000)
    for p in range(3):
        for c in range(4):
            alone = ops.lasso(gram[p : p + 1], rhs[p : p + 1, :, c : c + 1], 0.02, 1e-5, 1000)
            assert_close(together[p, :, c], alone[0, :, 0], rtol=0, atol=1e-14)


def test_result_does_not_depend_on_the_number_of_threads(native_ops, draw):
    case = *draw_problems(draw, 40, 30, 5), 0.02, 1e-8, 1000
    expected = native_ops.lasso(*case)
    threads = torch.get_num_threads()
    try:
        for number in (2, 3, 4):
            torch.set_num_threads(number)
            assert_close(native_ops.lasso(*case), expected, rtol=0, atol=0)
    finally:
        torch.set_num_threads(threads)


def test_sweeps_and_tolerance(ops, draw):
    gram, rhs = draw_problems(draw, 1, 5, 1)
    assert (ops.lasso(gram, rhs, 0.1, 0.0, 0) == 0).all()
    coefficients = torch.zeros_like(rhs)
    for j in range(5):
        rest = (rhs - gram @ coefficients)[0, j] + gram[0, j, j] * coefficients[0, j]
        coefficients[0, j] = rest.sign() * (rest.abs() - 0.1).clamp(min=0) / gram[0, j, j]
    assert_close(ops.lasso(gram, rhs, 0.1, 0.0, 1), coefficients, rtol=1e-12, atol=1e-14)
    assert_close(ops.lasso(gram, rhs, 0.1, 10.0, 1000), coefficients, rtol=1e-12, atol=1e-14)
    errors = [
        (ops.lasso(gram, rhs, 0.1, tolerance, 1000) - ops.lasso(gram, rhs, 0.1, 0.0, 1000)).abs()
        for tolerance in (1e-2, 1e-5, 1e-8)
    ]
    assert errors[0].max() > errors[1].max() > errors[2].max()
    assert errors[2].max() < 1e-7


def test_nan_stays_in_its_problem_and_ends_it(ops, draw):
    gram, rhs = draw_problems(draw, 2, 6, 2)
    expected = ops.lasso(gram, rhs, 0.05, 1e-8, 1000)
    rhs[0, 3, 1] = torch.nan
    coefficients = ops.lasso(gram, rhs, 0.05, 1e-8, 10**9)  # this many would take hours
    assert coefficients[0, :, 1].isnan().any()
    coefficients[0, :, 1] = expected[0, :, 1]
    assert_close(coefficients, expected, rtol=0, atol=1e-14)


def test_any_strides(ops, draw):
    gram, rhs = draw_problems(draw, 4, 6, 3)
    permuted = rhs.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    expected = ops.lasso(gram[::2].clone(), rhs[::2].clone(), 0.05, 1e-10, 1000)
    coefficients = ops.lasso(gram[::2], permuted[::2], 0.05, 1e-10, 1000)
    assert coefficients.is_contiguous()
    assert_close(coefficients, expected, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(0, 5, 2), (3, 0, 2), (3, 5, 0)], ids=str)
def test_nothing_to_solve(ops, device, shape):
    problems, players, _ = shape
    gram = torch.zeros(problems, players, players, dtype=torch.float64, device=device)
    rhs = torch.zeros(shape, dtype=torch.float64, device=device)
    assert ops.lasso(gram, rhs, 0.1, 1e-6, 10).shape == shape


def test_arguments_untouched(ops, draw):
    gram, rhs = draw_problems(draw, 2, 6, 2)
    before = gram.clone(), rhs.clone()
    ops.lasso(gram, rhs, 0.05, 1e-8, 1000).zero_()
    assert_close((gram, rhs), before, rtol=0, atol=0)


def test_no_gradient_is_recorded(ops, draw):
    gram, rhs = (tensor.requires_grad_() for tensor in draw_problems(draw, 2, 6, 2))
    assert not ops.lasso(gram, rhs, 0.05, 1e-8, 1000).requires_grad


def test_opcheck(native_ops, draw):
    case = *draw_problems(draw, 2, 6, 2), 0.05, 1e-8, 1000
    torch.library.opcheck(torch.ops.fastxai.lasso.default, case)


def test_compiles_in_one_graph(native_ops, draw):
    def f(gram, rhs):
        return fastxai_ops.lasso(gram, rhs * 2, 0.05).sin()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=True)
    for players in (5, 7):
        case = draw_problems(draw, 2, players, 3)
        assert_close(compiled(*case), f(*case), rtol=0, atol=0)


def test_public_function_is_the_backend(draw):
    gram, rhs = draw_problems(draw, 2, 6, 2)
    expected = native.backend().lasso(gram, rhs, 0.05, 1e-10, 10_000)
    assert_close(fastxai_ops.lasso(gram, rhs, 0.05), expected, rtol=0, atol=0)


G = torch.zeros(2, 3, 3, dtype=torch.float64)
R = torch.zeros(2, 3, 4, dtype=torch.float64)
BAD = {
    "expected gram of dtype float64, got float32": (G.float(), R, 0.1, 1e-6, 10),
    "expected gram of shape [P, M, M], got [3, 3]": (G[0], R, 0.1, 1e-6, 10),
    "expected gram of shape [P, M, M], got [2, 2, 3]": (G[:, :2], R, 0.1, 1e-6, 10),
    "expected rhs of dtype float64, got int64": (G, R.long(), 0.1, 1e-6, 10),
    "expected rhs of shape [2, 3, C], got [2, 3]": (G, R[..., 0], 0.1, 1e-6, 10),
    "expected rhs of shape [2, 3, C], got [1, 3, 4]": (G, R[:1], 0.1, 1e-6, 10),
    "expected rhs of shape [2, 3, C], got [2, 2, 4]": (G, R[:, :2], 0.1, 1e-6, 10),
    "expected alpha of at least 0, got -0.5": (G, R, -0.5, 1e-6, 10),
    "expected alpha of at least 0, got nan": (G, R, float("nan"), 1e-6, 10),
    "expected tolerance of at least 0, got -1e-06": (G, R, 0.1, -1e-6, 10),
    "expected max_sweeps of at least 0, got -1": (G, R, 0.1, 1e-6, -1),
}


@pytest.mark.parametrize("message", BAD, ids=str)
def test_bad_arguments(ops, device, message):
    gram, rhs, *rest = BAD[message]
    with pytest.raises(RuntimeError) as caught:
        ops.lasso(gram.to(device), rhs.to(device), *rest)
    assert str(caught.value) == f"lasso: {message}"


@pytest.mark.cuda
def test_arguments_on_two_devices(ops, device):
    if device == "cpu":
        pytest.skip("takes two devices")
    with pytest.raises(RuntimeError) as caught:
        ops.lasso(G.cuda(), R, 0.1, 1e-6, 10)
    assert str(caught.value) == "lasso: expected rhs on cuda:0 like gram, got cpu"
