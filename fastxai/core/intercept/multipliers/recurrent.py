"""LSTM, GRU and plain recurrent layers and cells, written out in operations that have rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

State = tuple[Tensor, ...]  # (h, c) of an LSTM, (h,) otherwise: each [b, H]
Step = Callable[..., State]  # step(x, state, w_ih, w_hh, b_ih, b_hh, w_hr)


def _lstm_step(
    x: Tensor,
    state: State,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    w_hr: Tensor | None = None,
) -> State:
    h, c = state
    gates = F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh)
    i, f, g, o = gates.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h if w_hr is None else F.linear(h, w_hr)), c


def _gru_step(
    x: Tensor,
    state: State,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> State:
    (h,) = state
    x_parts, h_parts = (t.chunk(3, -1) for t in (F.linear(x, w_ih, b_ih), F.linear(h, w_hh, b_hh)))
    reset, update = ((a + b).sigmoid() for a, b in zip(x_parts[:2], h_parts[:2], strict=True))
    new = (x_parts[2] + reset * h_parts[2]).tanh()
    return ((1 - update) * new + update * h,)


def _plain_step(activation: Callable[[Tensor], Tensor]) -> Step:
    def step(
        x: Tensor,
        state: State,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> State:
        return (activation(F.linear(x, w_ih, b_ih) + F.linear(state[0], w_hh, b_hh)),)

    return step


STEPS: dict[str, Step] = {
    "lstm": _lstm_step,
    "gru": _gru_step,
    "rnn_tanh": _plain_step(torch.tanh),
    "rnn_relu": _plain_step(torch.relu),
}


def cell(name: str) -> Callable[..., Any]:
    """``torch.<name>_cell``, written out."""

    def written_out(input: Tensor, hx: Any, *weights: Tensor | None, **named: Any) -> Any:
        state = STEPS[name](input, tuple(hx) if name == "lstm" else (hx,), *weights, **named)
        return state if name == "lstm" else state[0]

    return written_out


def layers(name: str) -> Callable[..., Any]:
    """``torch.<name>`` of all steps and layers, written out; of padded or packed sequences."""

    def written_out(input: Tensor, *args: Any) -> Any:
        is_packed = isinstance(args[2], tuple | list)
        sizes = args[0].tolist() if is_packed else None
        hx, weights, biases, depth, dropout, train, both_ways, *rest = args[is_packed:]
        along = 1 if rest and rest[0] else 0
        states = tuple(hx) if name == "lstm" else (hx,)
        steps = input.unbind(along) if sizes is None else input.split(sizes)
        ways, finals = (2 if both_ways else 1), []
        count = len(weights) // (depth * ways)
        for layer in range(depth):
            found = []
            for way in range(ways):
                i = layer * ways + way
                w_ih, w_hh, *others = weights[i * count : (i + 1) * count]
                named = dict(zip(("b_ih", "b_hh"), others, strict=False)) if biases else {}
                if len(others) % 2:
                    named["w_hr"] = others[-1]
                start = tuple(s[i] for s in states)
                step = _with(STEPS[name], w_ih, w_hh, named)
                outputs, final = _through(step, steps, start, backwards=bool(way))
                found.append(outputs)
                finals.append(final)
            steps = [torch.cat(parts, -1) for parts in zip(*found, strict=True)]
            if dropout and train and layer < depth - 1:
                steps = [F.dropout(x, dropout) for x in steps]
        output = torch.stack(list(steps), along) if sizes is None else torch.cat(list(steps))
        return (output, *(torch.stack(parts) for parts in zip(*finals, strict=True)))

    return written_out


def _with(
    step: Step, w_ih: Tensor, w_hh: Tensor, named: dict[str, Tensor]
) -> Callable[[Tensor, State], State]:
    return lambda x, state: step(x, state, w_ih, w_hh, **named)


def _through(
    step: Callable[[Tensor, State], State],
    steps: Sequence[Tensor],  # each [b_t, F], none longer than the one before
    start: State,
    backwards: bool,
) -> tuple[list[Tensor], State]:
    """The outputs of the steps, in their order, and the last state of each sequence."""
    state, outputs = start, []
    ended: list[State] = []  # of sequences that are shorter than others, the shortest first
    if backwards:
        state = tuple(s[: len(steps[-1])] for s in start)
        for x in reversed(steps):
            more = len(x) - len(state[0])
            if more:  # sequences that begin, seen from behind
                begun = len(state[0])
                state = tuple(
                    torch.cat((s, first[begun : begun + more]))
                    for s, first in zip(state, start, strict=True)
                )
            state = step(x, state)
            outputs.append(state[0])
        return outputs[::-1], state
    for x in steps:
        if len(x) < len(state[0]):
            ended.append(tuple(s[len(x) :] for s in state))
            state = tuple(s[: len(x)] for s in state)
        state = step(x, state)
        outputs.append(state[0])
    if ended:
        state = tuple(torch.cat(parts) for parts in zip(state, *reversed(ended), strict=True))
    return outputs, state
