"""Inputs of which some have a first dimension that is not the batch: a list of indices, say.

Rows cannot be told apart there, so the whole call is described as one example: each tensor x is
[1, *x.shape], and the model answers for that batch of one as a whole.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core.checks import check, check_dense, name_of, warn
from ..core.engine.groups import FeatureGroups, check_feature_mask
from ..core.engine.inputs import Inputs, check_baselines, check_forward_args, check_inputs
from ..core.engine.model import Model, Prefix
from ..core.engine.request import Request
from ..core.engine.rows import permuted
from ..core.engine.targets import Target


def is_ragged(inputs: tuple[Any, ...]) -> bool:
    """Whether there are tensors of different first dimensions; what else is wrong is not seen."""
    tensors = [x for x in inputs if isinstance(x, Tensor) and not x.is_nested and x.dim() > 0]
    return any(x.shape[0] != tensors[0].shape[0] for x in tensors)


@dataclass(frozen=True, kw_only=True)
class RaggedRequest(Request):
    """A request about one example that is the whole call; ``given`` is what the user passed."""

    given: Inputs  # each [n_i, *F_i]

    @classmethod
    def of_call(
        cls,
        forward_func: Callable[..., Any],
        inputs: tuple[Tensor, ...],  # each [n_i, *F_i]
        baselines: Any = None,
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> RaggedRequest:
        """Checks the arguments of a call.

        Raises:
            ArgumentError: one of them is not what is documented.
        """
        for i, x in enumerate(inputs):
            name = name_of("inputs", i, True)
            check(isinstance(x, Tensor), name, "a torch.Tensor", f"a {type(x).__name__}")
            check_dense(x, name)
            check(x.dim() > 0, name, "at least one dimension", "a tensor without dimensions")
        lifted = check_inputs(tuple(x[None] for x in inputs), differentiable=False)
        given = Inputs(tuple(x[0] for x in lifted.tensors), True)
        rows = check_baselines(baselines, given)
        given = given.in_dtypes_of(rows)
        pairs = list(zip(given.tensors, rows, strict=True))
        model = Model(
            forward_func,
            1,
            forward_args=check_forward_args(additional_forward_args, False),
            row_by_row=False,
            prefix=Prefix(wanted=False),
        )
        chosen, count = _target(target, given), len(inputs)
        model = model.through(lambda function: _unlifted(function, count, chosen))
        model.whole_batch = True
        return cls(
            inputs=Inputs(tuple(x[None] for x, _ in pairs), True),
            baselines=tuple(b.expand_as(x)[None] for x, b in pairs),
            model=model,
            given=given,
        )

    def lifted(self, groups: FeatureGroups) -> FeatureGroups:  # of what was given
        """The same groups of the one example."""
        pairs = zip(groups.masks, self.given.tensors, strict=True)
        masks = tuple(mask.expand(x.shape)[None].contiguous() for mask, x in pairs)
        return FeatureGroups(masks, groups.count, groups.ids)

    def spread(
        self,
        drops: Tensor,  # [*A, G], of outputs [*A]
        groups: FeatureGroups,  # of what was given
    ) -> tuple[Tensor, ...]:
        """Every group's drop at its features, [A, *F_i] with A numbers in an output.

        Where a mask tells rows apart, an output with as many rows has each row's drop in its own
        row. Otherwise it is the drop of the sum of the outputs, in the input's shape.

        Raises:
            ArgumentError: such a sum would be one over different outputs.
        """
        shape = drops.shape[:-1]
        flat = drops.reshape(shape.numel(), groups.count)
        firsts = [x.shape[0] for x in self.given.tensors]
        # One output for each row of some input; any others are, say, those of several classes.
        may_add = shape.numel() == 1 or (len(shape) == 1 and shape[0] in firsts)
        found = []
        for i, (mask, x) in enumerate(zip(groups.masks, self.given.tensors, strict=True)):
            if x.numel() == 0:
                found.append(flat.new_zeros(len(flat), *x.shape[1:]))
            elif len(mask) == 1:
                found.append(flat[:, mask[0].long()])
            elif len(mask) == shape[0]:
                own = FeatureGroups((mask,), groups.count, None).spread(drops)[0]
                found.append(own.flatten(0, len(shape) - 1))
            else:
                check(
                    may_add,
                    name_of("feature_mask", i, True),
                    "one row for all, as forward_func gives outputs of shape {} (or a target)",
                    f"{len(mask)} rows",
                    tuple(shape),
                )
                found.append(flat.sum(0)[mask.long()])
        return tuple(found)

    def shuffled(
        self,
        feature_mask: Any,
        orders: Callable[[int, int], Tensor],  # for G groups, of n rows, [G, n] int64
        perm_func: Callable[[Tensor, Tensor], Tensor] | None,
    ) -> RaggedRequest:
        """The request with baselines that shuffle a group among the rows of each tensor.

        As no two groups share a feature, one tensor holds for each feature the value that it has
        when its group is shuffled. Groups with a part in a tensor of one row stay as they are.
        """
        groups = check_feature_mask(feature_mask, self.given)
        pairs = list(zip(self.given.tensors, groups.masks, strict=True))
        short = [i for i, (x, _) in enumerate(pairs) if x.shape[0] < 2]
        if short:
            names = ", ".join(name_of("inputs", i, True) for i in short)
            warn(
                f"{names}: fewer than two rows, which cannot be shuffled; the attributions of "
                "groups with a part in there are zero"
            )
        stay = torch.zeros(groups.count, dtype=torch.bool, device=pairs[0][0].device)
        for i in short:
            stay[pairs[i][1].flatten().long()] = True
        found = []
        for x, mask in pairs:
            other = x
            if x.shape[0] > 1 and perm_func is None:
                row = torch.arange(x.shape[0], device=x.device).reshape(-1, *[1] * (x.dim() - 1))
                source = orders(groups.count, x.shape[0]).to(x.device)[mask.long(), row]
                other = x.gather(0, source)
            elif x.shape[0] > 1:
                other = _each_shuffled(x, mask, stay, perm_func)
            found.append(torch.where(stay[mask.long()], x, other)[None])
        return replace(self, baselines=tuple(found))


def _each_shuffled(
    x: Tensor,  # [n, *F]
    mask: Tensor,  # [1, *F] or [n, *F]
    stay: Tensor,  # [G] bool
    perm_func: Any,
) -> Tensor:
    out = x.clone()
    for group in mask.unique().tolist():
        if stay[group]:
            continue
        chosen = mask == group
        out = torch.where(chosen, permuted(x, chosen, perm_func).detach(), out)
    return out


def _target(target: Any, given: Inputs) -> Target:
    """With one for each output row, these must be as many as some input has rows."""
    firsts = [x.shape[0] for x in given.tensors]
    many = isinstance(target, list) or (getattr(target, "ndim", 0) == 1 and len(target) != 1)
    return Target(target, len(target) if many and len(target) in firsts else firsts[0])


def _unlifted(function: Callable[..., Any], count: int, target: Target) -> Callable[..., Any]:
    """A function of tensors [1, n_i, *F_i], and then of extra arguments."""

    def call(*args: Any) -> Any:
        output = function(*(x[0] for x in args[:count]), *args[count:])
        if not target.spans:
            return output
        if isinstance(output, numbers.Real):
            output = torch.tensor([output])
        if not isinstance(output, Tensor):  # of which the model tells
            return output
        output = output.reshape(1) if output.dim() == 0 else output
        rows = output.shape[0]
        if target.each is not None:
            each = len(target.each)
            check(each == rows, "target", "one for each of the output's {} rows", each, rows)
        return target.select(output, 1, slice(0, rows))

    return call
