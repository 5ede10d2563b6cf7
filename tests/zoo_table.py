"""Every method asked about every kind of model in the zoo; ``python -m tests.zoo_table`` writes the
table of docs/models.md from what comes back."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fastxai
from fastxai import metrics
from fastxai.core.engine.state import modules_behind

from .methods import METHODS, groups
from .oracles import brute_force, every_coalition
from .zoo import OPEN, ZOO, CopyByCopy, Entry

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
BEGIN, END = "<!-- made by python -m tests.zoo_table -->", "<!-- end -->"
RIGHT, REFUSED, NONE, KNOWN_WRONG = "yes", "error", "–", "open"
STEPS = 8


def gradient(entry: Entry, x: Tensor) -> Tensor:
    leaf = x.detach().clone().requires_grad_()
    return torch.autograd.grad(entry.chosen(leaf).sum(), leaf)[0]


def path_integral(entry: Entry) -> Tensor:
    """Gauss and Legendre's rule from zeros, step by step."""
    places, weights = np.polynomial.legendre.leggauss(STEPS)
    steps = zip((places + 1) / 2, weights / 2, strict=True)
    return entry.inputs * sum(float(w) * gradient(entry, float(a) * entry.inputs) for a, w in steps)


@torch.no_grad()
def one_off(entry: Entry, replacement: Tensor) -> Tensor:
    """What the output loses, for each group that comes from elsewhere."""
    x, mask = entry.inputs, groups(entry.inputs)
    lost = torch.zeros(x.shape, dtype=entry.chosen(x).dtype)
    for g in mask.unique():
        drop = entry.chosen(x) - entry.chosen(torch.where(mask == g, replacement, x))
        lost += (mask == g) * drop.reshape(-1, *[1] * (x.dim() - 1))
    return lost


@torch.no_grad()
def shapley(entry: Entry) -> Tensor:
    """By all coalitions, each with a call of its own."""
    x, mask = entry.inputs, groups(entry.inputs)
    coalitions = every_coalition(int(mask.max()) + 1)
    outputs = torch.stack([entry.chosen(torch.where(z[mask], x, 0.0)) for z in coalitions])
    return brute_force(outputs).T[:, mask[0]].expand(x.shape)


def layer_of(function: Callable[..., Any]) -> nn.Module | None:
    return next((m for m in modules_behind(function) if type(m) is nn.Linear), None)


@dataclass(frozen=True)
class Asked:
    """How a method is asked, ask(function, entry, options), and the right values.

    Without ``truth`` they are the method's own values for the plain function, copy by copy.
    """

    ask: Callable[[Any, Entry, dict[str, Any]], Tensor]
    truth: Callable[[Entry], Tensor] | None = None
    of_gradients: bool = True
    of_layers: bool = False


class OneCopy(CopyByCopy):
    """The plain function for one copy of the batch, so that it calls a layer once."""

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[0] != self.batch:
            raise ValueError(f"{x.shape[0]} rows rather than {self.batch}")
        return self.plain(x)


def by(name: str, truth: Callable[[Entry], Tensor] | None = None, **fixed: Any) -> Asked:
    """As the table of all methods has it."""
    method = METHODS[name]

    def ask(function: Any, entry: Entry, options: dict[str, Any]) -> Tensor:
        layer = None
        if method.of_layer:
            plain = isinstance(function, CopyByCopy)
            layer = layer_of(function.plain if plain else function)
            function = OneCopy(function.plain, function.batch) if plain else function
        made = {k: v(entry.inputs) if callable(v) else v for k, v in fixed.items()}
        return method.ask(function, entry.inputs, layer, **made, **options)

    of_gradients = not method.compares and name != "LayerActivation"
    return Asked(ask, truth, of_gradients, method.of_layer)


def permutation(function: Any, entry: Entry, options: dict[str, Any]) -> Tensor:
    def roll(x: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, x.roll(1, 0), x)

    explainer = fastxai.FeaturePermutation(function, roll)
    return explainer.attribute(entry.inputs, feature_mask=groups(entry.inputs), **options)


def infidelity(function: Any, entry: Entry, options: dict[str, Any]) -> Tensor:
    def perturb(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        return 0.1 * torch.ones_like(x), x - 0.1

    x = entry.inputs
    return metrics.infidelity(function, perturb, x, x.clone(), n_perturb_samples=2, **options)


def sensitivity(function: Any, entry: Entry, options: dict[str, Any]) -> Tensor:
    explain = fastxai.Saliency(function).attribute
    return metrics.sensitivity_max(explain, entry.inputs, n_perturb_samples=2, seed=0, **options)


def lime_base(function: Any, entry: Entry, options: dict[str, Any]) -> Tensor:
    """A fit to the chosen outputs' sum, as it takes one number for the batch."""

    def summed(x: Tensor, *extra: Any) -> Any:
        out = function(x, *extra)
        if entry.whole or not isinstance(out, Tensor):
            return out
        return (out if entry.target is None else out[:, entry.target]).sum()

    options = {k: v for k, v in options.items() if k != "target"}
    return METHODS["LimeBase"].ask(summed, entry.inputs, **options)


def ablated(entry: Entry) -> Tensor:
    return one_off(entry, torch.zeros_like(entry.inputs))


OF_METRICS = {
    "infidelity": Asked(infidelity, of_gradients=False),
    "sensitivity_max": Asked(sensitivity),
}
OF_IMAGES = {"GuidedGradCam"}  # which no model of the zoo is about
ALL: dict[str, Asked] = {
    **{name: by(name) for name in METHODS if name not in OF_IMAGES},
    "Saliency": by("Saliency", lambda e: gradient(e, e.inputs), abs=False),
    "InputXGradient": by("InputXGradient", lambda e: e.inputs * gradient(e, e.inputs)),
    "IntegratedGradients": by("IntegratedGradients", path_integral, n_steps=STEPS),
    "FeatureAblation": by("FeatureAblation", ablated, feature_mask=groups),
    "Occlusion": by("Occlusion", ablated),
    "FeaturePermutation": Asked(permutation, lambda e: one_off(e, e.inputs.roll(1, 0)), False),
    "ShapleyValues": by("ShapleyValues", shapley),
    # As many samples as there are coalitions.
    "KernelShap": by("KernelShap", shapley, feature_mask=groups),
    "ShapleyValueSampling": by("ShapleyValueSampling", feature_mask=groups),
    "Lime": by("Lime", feature_mask=groups),
    "LimeBase": Asked(lime_base, of_gradients=False),
    **OF_METRICS,
}


class Wrong(AssertionError):
    """A number that is not right, or an error that does not say what is wrong."""


def outcome(kind: str, name: str) -> str:
    """Asks the method about the kind of model.

    Raises:
        Wrong: what came back is neither the right values nor a clear error.
    """
    entry, method = ZOO[kind](), ALL[name]
    given, extra = entry.inputs.clone(), entry.extra()
    function = entry.of_layers if method.of_layers and entry.of_layers else entry.plain
    if method.of_layers and None in (layer_of(entry.model), layer_of(function)):
        return NONE
    options = {} if entry.target is None else {"target": entry.target}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            got = method.ask(entry.model, entry, options | {"additional_forward_args": extra})
        except Exception as error:
            # It names the argument, or is about what torch itself says of these numbers.
            if not re.match(r"[a-z_]+(\[\d+\])?: ", str(error)):
                raise Wrong(f"{type(error).__name__}: {error}") from error
            return REFUSED
        if not torch.equal(entry.inputs, given):
            raise Wrong("the inputs were written to")
        if not entry.differentiable and method.of_gradients:
            raise Wrong("there is no gradient")
        plain = CopyByCopy(function, len(given))
        try:
            right = method.truth(entry) if method.truth else method.ask(plain, entry, options)
        except Exception as error:  # there is none, so that there should have been no values
            raise Wrong(f"values, where plain operations have none: {error}") from error
    if got.shape not in (right.shape, right[:1].shape):
        raise Wrong(f"shape {tuple(got.shape)} rather than {tuple(right.shape)}")
    off = float((got - right).abs().max() / right.abs().max().clamp(min=1e-300))
    if not off <= entry.tolerance:
        raise Wrong(f"off by {off:.2g} of the largest value")
    return RIGHT


def committed() -> dict[tuple[str, str], str]:
    """The table of the page, by kind and method."""
    lines = PAGE.read_text().split(BEGIN)[1].split(END)[0].strip().splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    header = [h.strip("`") for h in cells[0][1:]]
    return {
        (row[0], name): cell
        for row in cells[2:]
        for name, cell in zip(header, row[1:], strict=True)
    }


def main() -> None:
    lines = ["| | " + " | ".join(f"`{name}`" for name in ALL) + " |"]
    lines.append("| --- |" + " --- |" * len(ALL))
    for kind in ZOO:
        row = []
        for name in ALL:
            if name in OPEN.get(kind, ()):
                row.append(KNOWN_WRONG)
                continue
            try:
                row.append(outcome(kind, name))
            except Wrong as error:
                print(f"{kind}, {name}: {error}")
                row.append("WRONG")
        lines.append(f"| {kind} | " + " | ".join(row) + " |")
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + "\n".join([BEGIN, "", *lines, "", END]) + rest.split(END)[1])


if __name__ == "__main__":
    main()
