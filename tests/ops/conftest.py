from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from fastxai.ops import native, reference

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# What is only copied may be of any dtype; these are of 1, 2, 4, 8 and 16 bytes.
COPIED_DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int16,
    torch.bfloat16,
    torch.int32,
    torch.float32,
    torch.int64,
    torch.float64,
    torch.complex64,
    torch.complex128,
]
SHAPES = [
    (1,),
    (5,),
    (0, 3),
    (4, 0),
    (2, 3, 4, 5),
    (1, 30),
    (7, 33),
    (1, 784),
    (3, 1023),
    (2, 1025),
    (5, 70_001),  # more than one thread's share
]
STEPS = [0, 1, 2, 3, 50]


@pytest.fixture(
    params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)],
)
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture(params=["native", "reference"])
def ops(request: pytest.FixtureRequest, device: str):
    """The ops under test: the compiled kernels of the device, and their pure-torch twins."""
    if request.param == "reference":
        return reference
    return need_native(device)


@pytest.fixture
def native_ops(device: str):
    return need_native(device)


def need_native(device: str):
    if native.backend() is reference:
        pytest.skip(f"no native library: {native.build_info().reason}")
    if device == "cuda" and not has_cuda_kernels():
        pytest.skip(f"no CUDA kernels: {native.build_info().cuda}")
    return native.backend()


def has_cuda_kernels() -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key("fastxai::path_points", "CUDA")


@pytest.fixture
def draw(device: str) -> Callable[..., Tensor]:
    """Draws standard normal tensors, the same in every run and on every device."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)

    return draw


def draw_of(draw, dtype: torch.dtype, *shape: int) -> Tensor:
    """Like ``draw``, for every dtype, with values that differ."""
    if dtype.is_complex:
        return torch.complex(draw(*shape), draw(*shape)).to(dtype)
    if dtype == torch.bool:
        return draw(*shape) > 0
    values = draw(*shape) * 30
    return (values if dtype.is_floating_point else values.abs().long()).to(dtype)


def draw_mapped(draw, sizes, in_dims) -> list[Tensor]:
    """Two float32 arguments and a float64 one, with a dimension of 6 where vmap maps over one."""
    arguments = []
    for size, in_dim in zip(sizes, in_dims, strict=True):
        shape = list(size)
        if in_dim is not None:
            shape.insert(in_dim, 6)
        arguments.append(
            draw(*shape, dtype=torch.float64 if len(arguments) == 2 else torch.float32)
        )
    return arguments


def pick(arguments: list[Tensor], in_dims, i: int) -> list[Tensor]:
    """The arguments of the i-th call that vmap stands for."""
    return [
        argument if in_dim is None else argument.select(in_dim, i)
        for argument, in_dim in zip(arguments, in_dims, strict=True)
    ]


def draw_coalitions(players: int, rows: int, device: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Coalitions at random, as bits [N, W] and as 0 and 1 [N, M] float64 on CPU."""
    z = np.random.default_rng(seed).random((rows, players)) < 0.5
    octets = np.zeros((rows, -(-players // 64) * 8), np.uint8)
    packed = np.packbits(z, axis=1, bitorder="little")
    octets[:, : packed.shape[1]] = packed
    bits = torch.from_numpy(octets.view("<i8").astype(np.int64))
    return bits.to(device), torch.from_numpy(z).double()


def fill_beyond(bits: Tensor, players: int) -> Tensor:
    """Sets all bits that are no player's."""
    filled = bits.clone()
    if players % 64:
        filled[:, -1] |= -1 << players % 64
    return filled
