import math

import pytest
import torch
from torch.testing import assert_close

from fastxai import ops as fastxai_ops
from fastxai.ops import native, reference
from fastxai.ops.reference.checks import accumulation_dtype
from tests.ops.conftest import DTYPES, SHAPES, STEPS, draw_mapped, pick


def draw_case(draw, shape, dtype, steps, with_acc=True):
    grads = draw(steps, *shape, dtype=dtype)
    acc = draw(*shape, dtype=accumulation_dtype(dtype)) if with_acc else None
    return acc, grads, draw(steps, dtype=torch.float64)


def exact_sum(acc, grads, weights):
    """The sum in float64, and the scale that rounding errors are measured by."""
    terms = grads.double() * weights.view(-1, *[1] * (grads.dim() - 1))
    start = 0 if acc is None else acc.double()
    scale = terms.abs().sum(0) + (0 if acc is None else acc.double().abs())
    return start + terms.sum(0), scale


@pytest.mark.parametrize("with_acc", [True, False], ids=["acc", "no_acc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_formula_in_float64(ops, draw, shape, dtype, with_acc):
    for steps in STEPS if math.prod(shape) < 100_000 else (1, 7):
        case = draw_case(draw, shape, dtype, steps, with_acc)
        total = ops.path_reduce(*case)
        assert total.is_contiguous()
        assert total.shape == shape
        assert total.dtype == accumulation_dtype(dtype)
        expected, scale = exact_sum(*case)
        unit = 2**-52 if dtype == torch.float64 else 2**-23
        # Each product and each sum rounds once: the standard bound on a sum's error.
        assert ((total.double() - expected).abs() <= (steps + 2) * unit * scale).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cpu_sum_does_not_depend_on_how_steps_are_cut(draw, device, native_ops, dtype):
    if device == "cuda":
        pytest.skip("promised on CPU only")
    for shape in ((3, 1023), (5, 70_001)):
        acc, grads, weights = draw_case(draw, shape, dtype, 23)
        whole = native_ops.path_reduce(acc, grads, weights)
        for cut in (1, 3, 4, 7, 16):
            total = acc
            for chunk, weight in zip(grads.split(cut), weights.split(cut), strict=True):
                total = native_ops.path_reduce(total, chunk, weight)
            assert_close(total, whole, rtol=0, atol=0)


def test_sum_does_not_depend_on_the_number_of_threads(draw, device, native_ops):
    case = draw_case(draw, (5, 70_001), torch.float32, 23)
    whole = native_ops.path_reduce(*case)
    threads = torch.get_num_threads()
    try:
        for number in (1, 3, 4):
            torch.set_num_threads(number)
            assert_close(native_ops.path_reduce(*case), whole, rtol=0, atol=0)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "layout",
    ["expanded", "one_step_expanded", "scalar_expanded", "permuted", "sliced", "offset"],
)
def test_any_strides(ops, draw, dtype, layout):
    grads = {
        "expanded": lambda: draw(1, 4, 6, dtype=dtype).expand(5, 4, 6),
        "one_step_expanded": lambda: draw(1, 1, 6, dtype=dtype).expand(5, 4, 6),
        "scalar_expanded": lambda: draw(1, 1, 1, dtype=dtype).expand(5, 4, 6),
        "permuted": lambda: draw(6, 4, 5, dtype=dtype).permute(2, 1, 0),
        "sliced": lambda: draw(10, 4, 6, dtype=dtype)[::2],
        "offset": lambda: draw(3 + 5 * 4 * 6, dtype=dtype)[3:].view(5, 4, 6),
    }[layout]()
    accumulation = accumulation_dtype(dtype)
    acc = draw(6, 4, dtype=accumulation).t()
    weights = draw(10, dtype=torch.float64)[::2]
    total = ops.path_reduce(acc, grads, weights)
    expected = ops.path_reduce(acc.contiguous(), grads.contiguous(), weights.contiguous())
    assert total.is_contiguous()
    assert_close(total, expected, rtol=1e-6, atol=1e-6)


def test_many_steps_of_few_elements(ops, draw):
    case = draw_case(draw, (1, 3), torch.float32, 5000)
    expected, scale = exact_sum(*case)
    difference = ops.path_reduce(*case).double() - expected
    assert (difference.abs() <= 5000 * 2**-23 * scale).all()


def test_new_memory_and_arguments_untouched(ops, draw):
    for steps in (0, 2):
        case = draw_case(draw, (3, 4), torch.float32, steps)
        before = [tensor.clone() for tensor in case]
        ops.path_reduce(*case).zero_()
        for tensor, copy in zip(case, before, strict=True):
            assert_close(tensor, copy, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_opcheck(native_ops, draw, dtype):
    for with_acc in (True, False):
        case = draw_case(draw, (3, 2, 5), dtype, 4, with_acc)
        arguments = [tensor if tensor is None else tensor.requires_grad_() for tensor in case]
        torch.library.opcheck(torch.ops.fastxai.path_reduce.default, arguments)


@pytest.mark.parametrize("with_acc", [True, False], ids=["acc", "no_acc"])
def test_gradients(ops, draw, with_acc):
    case = draw_case(draw, (3, 2, 2), torch.float64, 4, with_acc)
    arguments = [tensor if tensor is None else tensor.requires_grad_() for tensor in case]
    assert torch.autograd.gradcheck(ops.path_reduce, arguments)
    assert torch.autograd.gradgradcheck(ops.path_reduce, arguments)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_have_their_arguments_dtypes(ops, draw, dtype):
    arguments = [tensor.requires_grad_() for tensor in draw_case(draw, (3, 5), dtype, 4)]
    ops.path_reduce(*arguments).sum().backward()
    for argument in arguments:
        assert argument.grad.dtype == argument.dtype
        assert argument.grad.shape == argument.shape


def test_is_the_adjoint_of_path_points(ops, draw):
    input, alphas = draw(4, 3, dtype=torch.float64), draw(5, dtype=torch.float64)
    grads = draw(5, 4, 3, dtype=torch.float64)
    points = ops.path_points(input, torch.zeros_like(input), alphas)
    assert_close((points * grads).sum(), (input * ops.path_reduce(None, grads, alphas)).sum())


@pytest.mark.parametrize("grad_mode", [torch.enable_grad, torch.no_grad], ids=["grad", "no_grad"])
@pytest.mark.parametrize(
    "in_dims",
    [(0, 0, None), (None, 1, None), (2, None, None), (None, None, 0), (1, 3, 1)],
    ids=str,
)
def test_vmap(ops, draw, in_dims, grad_mode):
    sizes = [(4, 5), (3, 4, 5), (3,)]
    arguments = draw_mapped(draw, sizes, in_dims)
    with grad_mode():
        mapped = torch.vmap(ops.path_reduce, in_dims=in_dims)(*arguments)
    for i in range(6):
        assert_close(mapped[i], reference.path_reduce(*pick(arguments, in_dims, i)))


def test_vmap_without_acc(ops, draw):
    grads, weights = draw(6, 3, 4, 5), draw(3, dtype=torch.float64)
    mapped = torch.vmap(lambda g: ops.path_reduce(None, g, weights))(grads)
    assert_close(mapped, torch.stack([reference.path_reduce(None, g, weights) for g in grads]))


def test_compiles_in_one_graph(native_ops, draw):
    def f(acc, grads, weights):
        return fastxai_ops.path_reduce(acc, grads * 2, weights).sin()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape, steps in (((3, 5), 4), ((6, 7), 5)):
        acc, grads, weights = draw_case(draw, shape, torch.float32, steps)
        assert_close(compiled(acc, grads, weights), f(acc, grads, weights))
    grads.requires_grad_()
    (grad,) = torch.autograd.grad(compiled(acc, grads, weights).sum(), grads)
    (expected,) = torch.autograd.grad(f(acc, grads, weights).sum(), grads)
    assert_close(grad, expected)


def test_public_function_is_the_backend(draw):
    case = draw_case(draw, (3, 5), torch.float32, 4)
    expected = native.backend().path_reduce(*case)
    assert_close(fastxai_ops.path_reduce(*case), expected, rtol=0, atol=0)


G = torch.zeros(2, 4, 3)
ACC = torch.zeros(4, 3)
WEIGHTS = torch.zeros(2, dtype=torch.float64)
BAD = {
    "expected grads of dtype float16, bfloat16, float32 or float64, got int32": (
        None,
        G.int(),
        WEIGHTS,
    ),
    "expected grads of shape [S, B, *F], got [4]": (None, torch.zeros(4), WEIGHTS),
    "expected weights of dtype float64, got float32": (ACC, G, WEIGHTS.float()),
    "expected weights of shape [S], got [1, 2]": (ACC, G, WEIGHTS[None]),
    "expected weights of shape [2], got [1]": (ACC, G, WEIGHTS[:1]),
    "expected acc of dtype float32, got float16": (ACC.half(), G.half(), WEIGHTS),
    "expected acc of dtype float64, got float32": (ACC, G.double(), WEIGHTS),
    "expected acc of shape [4, 3], got [1, 3]": (ACC[:1], G, WEIGHTS),
    "expected acc of shape [4, 3], got [4, 3, 1]": (ACC[..., None], G, WEIGHTS),
}


@pytest.mark.parametrize("message", BAD, ids=str)
def test_bad_arguments(ops, device, message):
    case = (argument if argument is None else argument.to(device) for argument in BAD[message])
    with pytest.raises(RuntimeError) as caught:
        ops.path_reduce(*case)
    assert str(caught.value) == f"path_reduce: {message}"


@pytest.mark.cuda
def test_arguments_on_two_devices(ops, device):
    if device == "cpu":
        pytest.skip("takes two devices")
    for case, message in [
        ((ACC, G.cuda(), WEIGHTS.cuda()), "acc on cuda:0 like grads, got cpu"),
        ((None, G.cuda(), WEIGHTS), "weights on cuda:0 like grads, got cpu"),
        ((None, G, WEIGHTS.cuda()), "weights on cpu like grads, got cuda:0"),
    ]:
        with pytest.raises(RuntimeError) as caught:
            ops.path_reduce(*case)
        assert str(caught.value) == f"path_reduce: expected {message}"
