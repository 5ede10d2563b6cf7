"""More rules, each against what the function itself says: values, and sums of multipliers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastxai.core.intercept.deep_lift import Lifted

from .test_deep_lift import check_completeness, multipliers, randn

D = torch.float64
W4, T = randn(4), randn(6, 6, 4).sigmoid()
torch.manual_seed(3)
BILINEAR = nn.Bilinear(4, 4, 5, dtype=D)
LSTM = nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True, dtype=D)
PROJECTED = nn.LSTM(4, 5, 2, proj_size=3, bidirectional=True, dtype=D, bias=False)
GRU = nn.GRU(4, 5, 2, batch_first=True, bidirectional=True, dtype=D)
RNN = nn.RNN(4, 5, batch_first=True, nonlinearity="relu", dtype=D)
GRU_CELL, RNN_CELL = nn.GRUCell(4, 4, dtype=D), nn.RNNCell(4, 4, dtype=D)


def written_by_mask(x):
    y = x * 1
    y[y < 0] = 0
    return y


def packed(x):
    lengths = [6, 5, 5, 3, 2, 1]
    rows = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
    output, (h, _) = LSTM(rows)
    padded, _ = nn.utils.rnn.pad_packed_sequence(output, batch_first=True)
    return padded.flatten(1) + h.sum((0, 2))[:, None]


OPERATIONS = {
    "bilinear": lambda x: BILINEAR(x[:, :3], x[:, 3:]),
    "F.bilinear w act": lambda x: F.bilinear(x[:, 0], x[:, 1], BILINEAR.weight),
    "lerp": lambda x: torch.lerp(x[:, :3], x[:, 3:], x[:, :3].sigmoid()),
    "lerp_": lambda x: (x[:, :3] * 1).lerp_(x[:, 3:], x[:, :3].sigmoid()),
    "lerp num": lambda x: torch.lerp(x[:, :3].exp(), x[:, 3:], 0.3),
    "addcdiv": lambda x: torch.addcdiv(x, x.flip(1), x.exp(), value=0.5),
    "addcmul_": lambda x: (x * 1).addcmul_(x.flip(1), x.exp(), value=0.5),
    "einsum3": lambda x: torch.einsum("bij,bkj,bkl->bil", x, x.exp(), x.tanh()),
    "einsum list": lambda x: torch.einsum("bij,bkj->bik", [x, x.exp()]),
    "einsum w": lambda x: torch.einsum("bij,j,bkj->bik", x, W4, x),
    "vecdot": lambda x: torch.linalg.vecdot(x, x.exp()),
    "cross": lambda x: torch.linalg.cross(x[..., :3], x[..., 1:].exp()),
    "torch.cross": lambda x: torch.cross(x[..., :3], x[..., 1:].exp(), dim=-1),
    "fft": lambda x: torch.fft.rfft(x, dim=1).abs(),
    "fft power": lambda x: (z := torch.fft.rfft(x, dim=1)).real ** 2 + z.imag**2,
    "fft z zconj": lambda x: ((z := torch.fft.fft(x, dim=1)) * z.conj()).real,
    "fft conv": lambda x: torch.fft.irfft(
        torch.fft.rfft(x, dim=1) * torch.fft.rfft(x.exp(), dim=1), dim=1
    ),
    "angle": lambda x: torch.angle(torch.complex(x, x.exp())),
    "complex exp": lambda x: torch.exp(torch.complex(x, x.sin())).real,
    "stft": lambda x: (
        torch.stft(x.flatten(1), 8, window=torch.ones(8, dtype=D), return_complex=True)
        .abs()
        .flatten(1)
    ),
    "norm3": lambda x: x.norm(3, -1),
    "norminf": lambda x: x.norm(math.inf, -1),
    "norm-inf": lambda x: torch.linalg.vector_norm(x, -math.inf, -1),
    "norm1": lambda x: x.norm(1, dim=-1),
    "fro": lambda x: torch.linalg.matrix_norm(x),
    "lin norm": lambda x: torch.linalg.norm(x, dim=(1, 2)),
    "var_mean": lambda x: torch.var_mean(x, 1)[0] * torch.std_mean(x, dim=1, keepdim=True)[1][:, 0],
    "lrn": lambda x: F.local_response_norm(x, 3),
    "mask": lambda x: x * (x > 0),
    "mask float": lambda x: x * (x > 0).double(),
    "mask left": lambda x: (x > 0) * x,
    "mask in place": lambda x: (x * 1).mul_(x > 0.3),
    "gate other": lambda x: x[:, :3] * (x[:, 3:] > 0),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "where elu": lambda x: torch.where(x > 0, x, x.exp() - 1),
    "where abs": lambda x: x.where(x > 0, -x),
    "where const": lambda x: torch.where(x > 0, x, 0.0),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.0),
    "masked_fill_": lambda x: (x * 1).masked_fill_(x < 0.1, 0.1),
    "setitem": lambda x: (y := x * 1, y.__setitem__(y < 0, 0.0))[0],
    "setitem2": lambda x: written_by_mask(x),
    "huber": lambda x: F.huber_loss(x, T[:1].expand_as(x), reduction="none"),
    "mse": lambda x: F.mse_loss(x, x.flip(1), reduction="none"),
    "smooth": lambda x: F.smooth_l1_loss(x, x.flip(1), reduction="none", beta=0.5),
    "bce": lambda x: F.binary_cross_entropy(x.sigmoid(), T[:1].expand_as(x), reduction="none"),
    "bcel": lambda x: F.binary_cross_entropy_with_logits(
        x, T[:1].expand_as(x), reduction="none", pos_weight=W4.abs()
    ),
    "kl": lambda x: F.kl_div(x.log_softmax(-1), T[:1].expand_as(x).softmax(-1), reduction="none"),
    "ce": lambda x: F.cross_entropy(
        x.mT,
        torch.ones(len(x), 6, dtype=torch.long),
        reduction="none",
        label_smoothing=0.1,
        weight=W4.abs(),
    ),
    "ce plain": lambda x: F.cross_entropy(
        x.mT, torch.ones(len(x), 6, dtype=torch.long), reduction="none", weight=W4.abs()
    ),
    "ce prob": lambda x: F.cross_entropy(
        x.mT, T[:1].expand_as(x).mT.softmax(1), reduction="none", label_smoothing=0.1
    ),
    "poisson": lambda x: F.poisson_nll_loss(x, T[:1].expand_as(x), reduction="none"),
    "gnll": lambda x: F.gaussian_nll_loss(x, T[:1].expand_as(x), x.exp(), reduction="none"),
    "soft margin": lambda x: F.soft_margin_loss(x, x.flip(1), reduction="none"),
    "fmax": lambda x: torch.fmax(x, x.flip(1)),
    "atan2": lambda x: torch.atan2(x, x.flip(1)),
    "hypot": lambda x: torch.hypot(x, x.exp()),
    "logaddexp": lambda x: torch.logaddexp(x, x.flip(1)),
    "fmod": lambda x: torch.fmod(x, x.flip(1).exp()),
    "remainder": lambda x: x % 0.7,
    "pow": lambda x: x.abs() ** x.flip(1),
    "xlogy": lambda x: torch.xlogy(x, x.exp()),
    "floor": lambda x: (3 * x).floor() * x,
    "clamp tensors": lambda x: torch.clamp(x, x.flip(1) - 1, x.flip(1) + 0.1),
    "quantile": lambda x: x.quantile(0.3, 1),
    "quantile2": lambda x: x.quantile(torch.tensor([0.25, 0.8], dtype=D), -1, keepdim=True)[0],
    "median": lambda x: x.median(1).values,
    "sort": lambda x: x.sort(1, descending=True)[0],
    "topk": lambda x: x.topk(3, 1)[0],
    "kth": lambda x: x.kthvalue(2, -1)[0],
    "topk kw": lambda x: torch.topk(x, k=2, dim=1, largest=False).values,
    "min": lambda x: x.min(1).values,
    "min kd": lambda x: x.min(dim=1, keepdim=True)[0],
    "amin": lambda x: x.amin((1, 2)),
    "aminmax": lambda x: x.aminmax(dim=1)[0],
    "max two": lambda x: torch.max(x, x.flip(1)),
    "min two": lambda x: x.min(x.flip(1)),
    "prod": lambda x: x.prod(1),
    "cumprod": lambda x: x.cumprod(1),
    "det": lambda x: torch.linalg.det(x[:, :4]),
    "cdist": lambda x: torch.cdist(x, x.exp()),
    "pd": lambda x: F.pairwise_distance(x, x.exp()),
    "lp_pool": lambda x: F.lp_pool1d(x.abs(), 3, 2),
    "div floor": lambda x: torch.div(x, x.flip(1).exp(), rounding_mode="floor"),
    "lstm": lambda x: LSTM(x)[0],
    "lstm states": lambda x: LSTM(x)[1][1].transpose(0, 1),
    "lstm proj": lambda x: PROJECTED(x.transpose(0, 1))[0].transpose(0, 1),
    "gru": lambda x: GRU(x)[0],
    "rnn": lambda x: RNN(x)[0],
    "grucell": lambda x: GRU_CELL(x[:, 0], GRU_CELL(x[:, 1])),
    "rnncell": lambda x: RNN_CELL(x[:, 0], RNN_CELL(x[:, 1])),
    "rrelu": lambda x: F.rrelu(x),
    "triplet": lambda x: F.triplet_margin_with_distance_loss(
        x[:, 0], x[:, 1], x[:, 2], reduction="none"
    ),
}


@pytest.mark.parametrize("baselines", [1, 6])
@pytest.mark.parametrize("name", OPERATIONS)
def test_multipliers_add_up(name, baselines):
    check_completeness(OPERATIONS[name], 1.5 * randn(6, 6, 4), randn(baselines, 6, 4))


def test_packed_sequences():
    check_completeness(packed, 1.5 * randn(6, 6, 4), randn(6, 6, 4) + 1)
    x = randn(6, 6, 4)
    output, states = LSTM(nn.utils.rnn.pack_padded_sequence(x, [6, 5, 5, 3, 2, 1], True))
    assert output.data.shape == (22, 10) and states[0].shape == (4, 6, 5)


@pytest.mark.parametrize(
    ("by_hand", "known"),
    [
        (lambda x: x * (x > 0), F.relu),
        (lambda x: x * (x > 0).double(), F.relu),
        (lambda x: torch.where(x > 0, x, 0.0), F.relu),
        (lambda x: x.masked_fill(x < 0, 0), F.relu),
        (written_by_mask, F.relu),
        (lambda x: torch.where(x > 0, x, 0.1 * x), lambda x: F.leaky_relu(x, 0.1)),
        (lambda x: torch.where(x > 0, x, x.exp() - 1), F.elu),
        (lambda x: x.where(x > 0, -x), torch.abs),
        (lambda x: torch.fmax(x, 0 * x), F.relu),
        (lambda x: x.sort(1)[0][:, -1], lambda x: x.max(1).values),
        (lambda x: x.topk(1, 1)[0][:, 0], lambda x: x.max(1).values),
    ],
)
def test_what_is_written_by_hand_has_the_multipliers_of_the_operation(by_hand, known):
    x, baselines = 1.5 * randn(6, 6, 4), randn(3, 6, 4)
    expected = multipliers(known, x, baselines)
    torch.testing.assert_close(multipliers(by_hand, x, baselines), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("function", ["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
def test_large_logits_in_float32_as_in_float64(function, size):
    torch.manual_seed(0)
    shift = size * torch.rand(4, 1)
    x, baselines = shift + torch.randn(4, 5), shift.flip(0) + torch.randn(4, 5)

    def f(x):
        return getattr(torch, function)(x, 1)[:, :1] if "soft" in function else x.logsumexp(1)

    found = multipliers_of(f, x, baselines)
    exact = multipliers(f, x.double(), baselines.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-7)


def multipliers_of(function, x, baselines):
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(Lifted(function, 1, 1e-10)(leaf, baselines).sum(), leaf)
    return found
