import pytest
import torch
from torch.testing import assert_close

from fastxai import ops as fastxai_ops
from fastxai.ops import native, reference
from tests.ops.conftest import DTYPES, SHAPES, STEPS, draw_mapped, pick

ROUNDING = {torch.float16: 2**-10, torch.bfloat16: 2**-7, torch.float32: 2**-22, torch.float64: 0}


def draw_case(draw, shape, dtype, steps, one_baseline=False):
    input = draw(*shape, dtype=dtype)
    baseline = draw(*((1, *shape[1:]) if one_baseline else shape), dtype=dtype)
    return input, baseline, draw(steps, dtype=torch.float64)


@pytest.mark.parametrize("one_baseline", [False, True], ids=["baselines", "one_baseline"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_equals_reference_to_the_last_bit(native_ops, draw, shape, dtype, one_baseline):
    for steps in STEPS:
        case = draw_case(draw, shape, dtype, steps, one_baseline)
        points = native_ops.path_points(*case)
        assert points.is_contiguous()
        assert_close(points, reference.path_points(*case), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_the_formula_in_float64(ops, draw, dtype):
    input, baseline, alphas = draw_case(draw, (4, 3, 37), dtype, 9)
    points = ops.path_points(input, baseline, alphas)
    x, b = input.double(), baseline.double()
    exact = b + alphas.view(-1, 1, 1, 1) * (x - b)
    assert points.dtype == dtype
    tolerance = ROUNDING[dtype] or 2**-51
    assert_close(points.double(), exact, rtol=tolerance, atol=8 * tolerance)


def test_ends_are_the_baseline_and_the_input(ops, draw):
    input, baseline = draw(3, 5).abs(), draw(3, 5).abs().neg()
    points = ops.path_points(input, baseline, input.new_tensor([0, 1], dtype=torch.float64))
    assert_close(points[0], baseline, rtol=0, atol=0)
    assert_close(points[1], input, rtol=2**-22, atol=2**-22)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_strides(ops, draw, dtype):
    input = draw(6, 5, 4, dtype=dtype).permute(2, 0, 1)[::2]
    baseline = draw(1, 1, 5, dtype=dtype).expand(2, 6, 5)
    alphas = draw(8, dtype=torch.float64)[::2]
    points = ops.path_points(input, baseline, alphas)
    expected = reference.path_points(input.contiguous(), baseline.contiguous(), alphas.contiguous())
    assert points.is_contiguous()
    assert_close(points, expected, rtol=0, atol=0)


def test_an_offset_into_a_storage(ops, draw):
    input, baseline = draw(1 + 64)[1:].view(2, 32), draw(3 + 64)[3:].view(2, 32)
    alphas = draw(3, dtype=torch.float64)
    expected = reference.path_points(input.clone(), baseline.clone(), alphas)
    assert_close(ops.path_points(input, baseline, alphas), expected, rtol=0, atol=0)


def test_new_memory_and_arguments_untouched(ops, draw):
    case = draw_case(draw, (3, 4), torch.float32, 1)
    before = [tensor.clone() for tensor in case]
    points = ops.path_points(case[0], case[1], torch.ones_like(case[2]))
    points.zero_()
    for tensor, copy in zip(case, before, strict=True):
        assert_close(tensor, copy, rtol=0, atol=0)


def test_infinities_and_nans_go_where_the_formula_sends_them(ops, draw):
    input, baseline = draw(1, 3), draw(1, 3)
    input[0, 0], baseline[0, 1] = torch.inf, torch.nan
    points = ops.path_points(input, baseline, torch.ones(1, dtype=torch.float64).to(input.device))
    assert points[0, 0, 0] == torch.inf
    assert points[0, 0, 1].isnan()
    assert points[0, 0, 2].isfinite()


def test_points_do_not_depend_on_the_number_of_threads(native_ops, draw):
    threads = torch.get_num_threads()
    try:
        for shape in ((1, 8_000), (5, 70_001)):  # one tile's steps, many tiles
            case = draw_case(draw, shape, torch.float32, 50)
            expected = reference.path_points(*case)
            for number in (2, 3, 4):
                torch.set_num_threads(number)
                assert_close(native_ops.path_points(*case), expected, rtol=0, atol=0)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_opcheck(native_ops, draw, dtype):
    for one_baseline in (False, True):
        case = draw_case(draw, (3, 2, 5), dtype, 4, one_baseline)
        arguments = [tensor.requires_grad_() for tensor in case]
        torch.library.opcheck(torch.ops.fastxai.path_points.default, arguments)


@pytest.mark.parametrize("one_baseline", [False, True], ids=["baselines", "one_baseline"])
def test_gradients(ops, draw, one_baseline):
    case = draw_case(draw, (3, 2, 2), torch.float64, 4, one_baseline)
    arguments = [tensor.requires_grad_() for tensor in case]
    assert torch.autograd.gradcheck(ops.path_points, arguments)
    assert torch.autograd.gradgradcheck(ops.path_points, arguments)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_have_their_arguments_dtypes(ops, draw, dtype):
    case = draw_case(draw, (3, 5), dtype, 4, one_baseline=True)
    arguments = [tensor.requires_grad_() for tensor in case]
    ops.path_points(*arguments).sum().backward()
    for argument in arguments:
        assert argument.grad.dtype == argument.dtype
        assert argument.grad.shape == argument.shape


def test_no_gradient_is_recorded_without_grad_mode(ops, draw):
    case = draw_case(draw, (3, 5), torch.float32, 4)
    case[0].requires_grad_()
    with torch.no_grad():
        assert not ops.path_points(*case).requires_grad
    assert ops.path_points(*case).requires_grad


@pytest.mark.parametrize("grad_mode", [torch.enable_grad, torch.no_grad], ids=["grad", "no_grad"])
@pytest.mark.parametrize(
    "in_dims",
    [(0, 0, None), (1, None, None), (None, 2, None), (None, None, 0), (0, 1, 0)],
    ids=str,
)
def test_vmap(ops, draw, in_dims, grad_mode):
    sizes = [(4, 5), (1, 5), (3,)]
    arguments = draw_mapped(draw, sizes, in_dims)
    with grad_mode():
        mapped = torch.vmap(ops.path_points, in_dims=in_dims)(*arguments)
    for i in range(6):
        assert_close(mapped[i], reference.path_points(*pick(arguments, in_dims, i)), rtol=0, atol=0)


def test_compiles_in_one_graph(native_ops, draw):
    def f(input, baseline, alphas):
        return fastxai_ops.path_points(input * 2, baseline, alphas).sin()

    case = draw_case(draw, (3, 5), torch.float32, 4)
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=True)
    assert_close(compiled(*case), f(*case))
    input, baseline, alphas = draw_case(draw, (6, 7), torch.float32, 5)
    input.requires_grad_()
    (grad,) = torch.autograd.grad(compiled(input, baseline, alphas).sum(), input)
    (expected,) = torch.autograd.grad(f(input, baseline, alphas).sum(), input)
    assert_close(grad, expected)


def test_public_function_is_the_backend(draw):
    case = draw_case(draw, (3, 5), torch.float32, 4)
    expected = native.backend().path_points(*case)
    assert_close(fastxai_ops.path_points(*case), expected, rtol=0, atol=0)


X = torch.zeros(4, 3)
ALPHAS = torch.zeros(2, dtype=torch.float64)
BAD = {
    "expected input of dtype float16, bfloat16, float32 or float64, got int64": (
        X.long(),
        X.long(),
        ALPHAS,
    ),
    "expected input of dtype float16, bfloat16, float32 or float64, got complex64": (
        X.cfloat(),
        X.cfloat(),
        ALPHAS,
    ),
    "expected input of shape [B, *F], got []": (torch.zeros(()), torch.zeros(()), ALPHAS),
    "expected baseline of dtype float32, got float64": (X, X.double(), ALPHAS),
    "expected baseline of dtype float16, got float32": (X.half(), X, ALPHAS),
    "expected baseline of shape [4, 3] or [1, 3], got [4, 1]": (X, X[:, :1], ALPHAS),
    "expected baseline of shape [4, 3] or [1, 3], got [3]": (X, X[0], ALPHAS),
    "expected baseline of shape [4, 3] or [1, 3], got [2, 3]": (X, X[:2], ALPHAS),
    "expected alphas of dtype float64, got float32": (X, X, ALPHAS.float()),
    "expected alphas of shape [S], got [2, 1]": (X, X, ALPHAS[:, None]),
    "expected alphas of shape [S], got []": (X, X, ALPHAS[0]),
}


@pytest.mark.parametrize("message", BAD, ids=str)
def test_bad_arguments(ops, device, message):
    with pytest.raises(RuntimeError) as caught:
        ops.path_points(*(argument.to(device) for argument in BAD[message]))
    assert str(caught.value) == f"path_points: {message}"


@pytest.mark.cuda
def test_arguments_on_two_devices(ops, device):
    if device == "cpu":
        pytest.skip("takes two devices")
    for case, message in [
        ((X.cuda(), X, ALPHAS.cuda()), "baseline on cuda:0 like input, got cpu"),
        ((X.cuda(), X.cuda(), ALPHAS), "alphas on cuda:0 like input, got cpu"),
        ((X, X, ALPHAS.cuda()), "alphas on cpu like input, got cuda:0"),
    ]:
        with pytest.raises(RuntimeError) as caught:
            ops.path_points(*case)
        assert str(caught.value) == f"path_points: expected {message}"
