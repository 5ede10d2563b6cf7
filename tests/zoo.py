"""A zoo of models: one of each kind that people explain, small, with what it should be equal to.

An entry's ``plain`` is the same function of a batch in plain operations. It is never given more
than one copy of the batch at a time (:class:`CopyByCopy`), so rows may influence one another.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

BATCH, WIDTH, CLASSES = 4, 5, 3


@dataclass
class Entry:
    """A model, its question, and the same function in plain operations.

    Attributes:
        model: what is explained.
        plain: of the inputs [B, *F]; equal to the model with its extra arguments.
        inputs: [B, *F].
        extra: the extra arguments, made anew.
        tolerance: of the values, relative to the largest.
        differentiable: whether autograd sees through the model.
        target: which output.
        whole: whether there is one answer for the batch.
        of_layers: the plain function for methods of layers, where ``plain`` calls them otherwise.
    """

    model: Callable[..., Any]
    plain: Callable[[Tensor], Tensor]
    inputs: Tensor
    extra: Callable[[], tuple[Any, ...]] = tuple
    tolerance: float = 1e-9
    differentiable: bool = True
    target: int | None = 1
    whole: bool = False
    of_layers: Callable[[Tensor], Tensor] | None = None

    def chosen(self, x: Tensor) -> Tensor:  # [B], or [1] for the batch
        """The explained output of one copy of the batch."""
        out = self.plain(x)
        return out.reshape(1) if self.whole else out if self.target is None else out[:, self.target]


class CopyByCopy:
    """The plain function for stacked copies of the batch, each by itself."""

    def __init__(self, plain: Callable[[Tensor], Tensor], batch: int):
        self.plain, self.batch = plain, batch

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[0] % self.batch:
            raise ValueError(f"{x.shape[0]} rows are no whole copies of the batch")
        copies = x.split(self.batch)
        return torch.cat([self.plain(c) for c in copies]) if len(copies) > 1 else self.plain(x)


def net(activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(WIDTH, 6), activation(), nn.Linear(6, CLASSES)
    return nn.Sequential(*layers).double().eval()


def rows(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, *(shape or (WIDTH,)), dtype=torch.float64, generator=generator)


def others(*shape: int, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def module() -> Entry:
    model = net(nn.ReLU)
    return Entry(model, model, rows())


def frozen() -> Entry:
    model = net().requires_grad_(False)
    return Entry(model, net(), rows())


def graph_edge_index() -> Entry:
    model, edges = net(), torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]])

    def call(x: Tensor, edge_index: Tensor) -> Tensor:
        return model(x + torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]]).tanh())

    return Entry(call, lambda x: call(x, edges), rows(), lambda: (edges.clone(),))


def graph_matrix(layout: torch.layout = torch.strided) -> Entry:
    model = net()
    dense = (others(BATCH, BATCH) > 0).double()

    def call(x: Tensor, adjacency: Tensor) -> Tensor:
        return model(torch.tanh(adjacency @ x))

    def extra() -> tuple[Tensor]:
        return (dense.clone() if layout == torch.strided else dense.to_sparse(layout=layout),)

    return Entry(call, lambda x: call(x, dense), rows(), extra)


def sparse_rows() -> Entry:
    model = net()
    side = others(BATCH, 7).relu()
    weight = others(7, WIDTH, seed=3)

    def call(x: Tensor, sparse: Tensor) -> Tensor:
        return model(x * (1 + sparse @ weight))

    return Entry(call, lambda x: call(x, side), rows(), lambda: (side.to_sparse(),))


def bag() -> Entry:
    model = net()

    def call(x: Tensor) -> Tensor:
        return model(x.tanh().sum(0, keepdim=True))[0, 1]

    return Entry(call, call, rows(), target=None, whole=True)


def batch_mean() -> Entry:
    model = net()

    def call(x: Tensor) -> Tensor:
        return model(x - x.mean(0, keepdim=True))

    return Entry(call, call, rows())


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.rnn = nn.GRU(2, 3, batch_first=True)
        self.head = nn.Linear(3, CLASSES)
        self.double().eval()


class PackedRNN(Recurrent):
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:  # [N, T, 2], [N]
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.rnn(packed)[1][0])


def packed_rnn() -> Entry:
    model, lengths = PackedRNN(), torch.tensor([3, 1, 2, 3])

    def plain(x: Tensor) -> Tensor:
        ends = [model.rnn(x[i : i + 1, :n])[1][0] for i, n in enumerate(lengths.tolist())]
        return model.head(torch.cat(ends))

    return Entry(model, plain, rows(3, 2), lambda: (lengths.clone(),))


class BatchSecond(Recurrent):
    def forward(self, x: Tensor, state: Tensor) -> Tensor:  # [N, T, 2], [1, N, 3]
        return self.head(self.rnn(x, state)[1][0])


def batch_second() -> Entry:
    model, state = BatchSecond(), others(1, BATCH, 3)

    def plain(x: Tensor) -> Tensor:
        return model.head(torch.cat([model.rnn(r, state[:, i])[1] for i, r in enumerate(x)]))

    return Entry(model, plain, rows(3, 2), lambda: (state.clone(),))


def batch_of_one() -> Entry:
    model = net()

    def call(x: Tensor) -> Tensor:
        if x.shape[0] != 1:
            raise ValueError(f"one row at a time, not {x.shape[0]}")
        return model(x)

    return Entry(call, model, rows()[:1])


class Stateful(nn.Module):
    """Adds what it saw in the last call, which it keeps in a buffer and in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.register_buffer("level", torch.ones((), dtype=torch.float64))
        self.last: Tensor | None = None
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        before = 0 if self.last is None else self.last
        self.last = x.detach().mean() + before
        self.level += 1
        return self.net(x * self.level + before)


def stateful() -> Entry:
    model = Stateful()
    return Entry(model, lambda x: model.net(2 * x), rows())


def checkpointed(reentrant: bool = False) -> Entry:
    model = net()

    def call(x: Tensor) -> Tensor:
        return checkpoint(model, x, use_reentrant=reentrant)

    return Entry(call, model, rows())


def writes_to_inputs() -> Entry:
    model = net()

    def call(x: Tensor) -> Tensor:
        return model(x.mul_(2))

    return Entry(call, lambda x: model(2 * x), rows())


def writes_to_extra() -> Entry:
    model = net()
    scale, shift = others(BATCH, WIDTH), others(WIDTH, seed=3)

    def call(x: Tensor, scale: Tensor, more: dict[str, list[Tensor]]) -> Tensor:
        scale += 1
        more["shift"][0].detach().numpy()[...] += 1
        return model(x * scale + more["shift"][0])

    def extra() -> tuple[Any, ...]:
        return scale.clone(), {"shift": [shift.clone()]}

    return Entry(call, lambda x: model(x * (scale + 1) + shift + 1), rows(), extra)


class Quantised(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = torch.quantize_per_tensor(weight.detach().float(), 0.05, 0, torch.qint8)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.tanh(), self.weight.dequantize().to(x.dtype))


def quantised() -> Entry:
    model = Quantised(others(CLASSES, WIDTH)).eval()
    weight = model.weight.dequantize().double()
    return Entry(model, lambda x: F.linear(x.tanh(), weight), rows())


def quantised_activations() -> Entry:
    weight = others(CLASSES, WIDTH)

    def call(x: Tensor) -> Tensor:
        coded = torch.quantize_per_tensor(x.float().tanh(), 0.01, 0, torch.qint8)
        return F.linear(coded.dequantize().double(), weight)

    return Entry(call, call, rows(), differentiable=False)


def compiled() -> Entry:
    return Entry(torch.compile(net(), backend="eager"), net(), rows())


def scripted() -> Entry:
    return Entry(torch.jit.trace(net(), rows()), net(), rows())


def vmap_ensemble() -> Entry:
    model = net(nn.ReLU)
    weights = {k: torch.stack([v, 1.1 * v, 0.9 * v]) for k, v in model.state_dict().items()}

    def one(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, weights, (x,))

    def in_turn(x: Tensor) -> Tensor:
        return sum(one({k: v[i] for k, v in weights.items()}, x) for i in range(3)) / 3

    return Entry(lambda x: vmap(one, in_dims=(0, None))(weights, x).mean(0), in_turn, rows())


def vmap_over_rows() -> Entry:
    model = net()
    return Entry(vmap(lambda row: model(row[None])[0]), model, rows())


def data_parallel() -> Entry:
    return Entry(nn.DataParallel(net(nn.ReLU)), net(nn.ReLU), rows())


def autocast() -> Entry:
    model = net().float()

    def call(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x).float()

    return Entry(call, call, rows().float(), tolerance=0.05)


def half(dtype: torch.dtype = torch.float16) -> Entry:
    model = net().to(dtype)
    tolerance = 0.02 if dtype == torch.float16 else 0.1
    return Entry(model, model, rows().to(dtype), tolerance=tolerance)


def complex_inside() -> Entry:
    weight = torch.complex(others(WIDTH, CLASSES), others(WIDTH, CLASSES, seed=3))

    def call(x: Tensor) -> Tensor:
        z = torch.fft.fft(x) @ weight
        return z.real.tanh() + z.imag

    return Entry(call, call, rows())


def complex_inputs() -> Entry:
    weight = others(WIDTH, CLASSES)

    def call(x: Tensor) -> Tensor:
        return x.abs() @ weight + (x.real * x.imag) @ weight

    x = torch.complex(rows(), rows().roll(1, 0))
    return Entry(call, call, x, differentiable=False)


def encoder() -> Entry:
    """A small BERT over embeddings with an attention mask, [B, T] and of one length for all."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    small = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=11, intermediate_size=8, max_position_embeddings=8, **small)
    model = BertModel(config, add_pooling_layer=False).double().eval()
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]])

    def call(x: Tensor, mask: Tensor) -> Tensor:
        return model(inputs_embeds=x, attention_mask=mask).last_hidden_state[:, 0]

    def plain(x: Tensor) -> Tensor:
        each = zip(x.split(1), mask.sum(1).tolist(), strict=True)
        return torch.cat([call(one[:, :n], torch.ones(1, n)) for one, n in each])

    inside = functools.partial(call, mask=mask)
    return Entry(call, plain, rows(3, 4), lambda: (mask.clone(),), of_layers=inside)


def decoder() -> Entry:
    """A small LLaMA that continues a prompt, of which a cache holds keys and values."""
    from transformers import DynamicCache, LlamaConfig, LlamaModel

    torch.manual_seed(0)
    small = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=11, intermediate_size=8, max_position_embeddings=16, **small)
    model = LlamaModel(config).double().eval()
    prompt = torch.tensor([[1, 2, 3]] * BATCH)

    def extra() -> tuple[Any, ...]:
        with torch.no_grad():
            return (model(prompt, past_key_values=DynamicCache(config=config)).past_key_values,)

    def call(x: Tensor, cache: Any) -> Tensor:
        return model(inputs_embeds=x, past_key_values=cache).last_hidden_state[:, -1]

    def plain(x: Tensor) -> Tensor:
        before = model.embed_tokens(prompt)
        given = torch.cat([before, x], 1)
        return model(inputs_embeds=given, use_cache=False).last_hidden_state[:, -1]

    (held,) = extra()
    inside = lambda x: call(x, copy.deepcopy(held))  # noqa: E731
    return Entry(call, plain, rows(2, 4), extra, of_layers=inside)


class Detector(nn.Module):
    """Boxes and scores, [N, 2, 4] and [N, 3], and losses that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.scores, self.boxes = net(), nn.Linear(WIDTH, 8).double()

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], None]:
        boxes = self.boxes(x).unflatten(1, (2, 4))
        return {"boxes": boxes, "scores": self.scores(x).softmax(1)}, None


def detector() -> Entry:
    model = Detector().eval()
    return Entry(lambda x: model(x)[0]["scores"], lambda x: model.scores(x).softmax(1), rows())


def tuple_output() -> Entry:
    """Without the wrapper: no method can know which of the tensors is meant."""
    model = Detector().eval()
    return Entry(model, lambda x: model.scores(x).softmax(1), rows())


def of_numpy() -> Entry:
    weight = others(WIDTH, CLASSES)

    def call(x: Tensor) -> Tensor:
        return torch.from_numpy(np.tanh(x.detach().numpy()) @ weight.numpy())

    return Entry(call, lambda x: x.tanh() @ weight, rows(), differentiable=False)


def batch_norm_behind(reach: Callable[[nn.Module], Callable[..., Any]]) -> Entry:
    model = nn.Sequential(net()[0], nn.BatchNorm1d(6), nn.Tanh(), net()[2]).double().train()

    def plain(x: Tensor) -> Tensor:
        h = model[0](x)
        h = (h - h.mean(0)) / (h.var(0, unbiased=False) + model[1].eps).sqrt()
        return model[3](h.tanh())

    return Entry(reach(model), plain, rows())


def by_closure(model: nn.Module) -> Callable[..., Any]:
    held = {"models": [model]}
    return lambda x: held["models"][0](x)


ZOO: dict[str, Callable[[], Entry]] = {
    "module with ReLU": module,
    "frozen": frozen,
    "function of NumPy": of_numpy,
    "float16": half,
    "bfloat16": functools.partial(half, torch.bfloat16),
    "complex inside": complex_inside,
    "complex inputs": complex_inputs,
    "autocast": autocast,
    "quantised weights": quantised,
    "quantised activations": quantised_activations,
    "compiled": compiled,
    "scripted": scripted,
    "vmap ensemble": vmap_ensemble,
    "vmap over rows": vmap_over_rows,
    "DataParallel, one device": data_parallel,
    "stateful": stateful,
    "writes to inputs": writes_to_inputs,
    "writes to extra arguments": writes_to_extra,
    "sparse extra argument of rows": sparse_rows,
    "packed RNN": packed_rnn,
    "encoder with masks": encoder,
    "detector behind a wrapper": detector,
    "detector, tuple output": tuple_output,
    "checkpointed": checkpointed,
    "checkpointed, reentrant": functools.partial(checkpointed, True),
    "graph, edge_index": graph_edge_index,
    "graph, matrix": graph_matrix,
    "graph, sparse matrix": functools.partial(graph_matrix, torch.sparse_coo),
    "graph, CSR matrix": functools.partial(graph_matrix, torch.sparse_csr),
    "bag, one output": bag,
    "batch mean": batch_mean,
    "batch second": batch_second,
    "batch of one": batch_of_one,
    "decoder with cache": decoder,
    "train-mode norm in a partial": functools.partial(batch_norm_behind, functools.partial),
    "train-mode norm in a closure": functools.partial(batch_norm_behind, by_closure),
}
# Cells that are known not to be right. The documentation says so; they are not tested. Take one out
# here once it is mended, and run `python -m tests.zoo_table`.
_PATHS = {
    "IntegratedGradients",
    "GradientShap",
    "NoiseTunnel",
    "LayerIntegratedGradients",
    "LayerGradientShap",
}
OPEN: dict[str, set[str]] = {
    # The rows of a path share their statistics, as in Captum: no copy stands for itself.
    "train-mode norm in a partial": _PATHS,
    "train-mode norm in a closure": _PATHS,
}
