"""What an author of an attribution method needs; ``docs/your_own_method.md`` writes two with it.

The names of ``__all__`` are promised as those of ``fastxai`` are (``docs/public.md``). A method is
a subclass of :class:`GradientAttribution` or :class:`PerturbationAttribution` with an ``attribute``
under :func:`captum_compatible`, whose arguments ``inputs``, ``baselines``, ``target`` and
``additional_forward_args`` have the names and meanings of Captum's. ``explain``, ``plan``,
``compile``, ``fastxai.export`` and :class:`fastxai.NoiseTunnel` come of it.

Beyond that, names with an underscore are not for whoever asks for attributions. These are promised
to a subclass all the same. A method calls

- ``self._query(inputs, baselines, target, additional_forward_args)``, which checks them and gives a
  :class:`Request`;
- ``self._outputs_at_inputs(request, limit, to_come)``, ``self._values_of(request, rows, limit)``
  and ``self._stream(request, rows, visit, limit)``, as a :class:`PerturbationAttribution`: they ask
  the model and refuse outputs that are NaN.

It writes, each with those arguments of ``attribute`` that are not about the question, by name,

- ``_values(request, **options)``, as a :class:`GradientAttribution`: the attributions, for each
  input [B, *F_i]; or
- ``_find(request, detailed, **options)``, as any other: a :class:`Result`;
- ``_program(inputs, **options)``, if it is to be exported: a function from a :class:`TracedRequest`
  to an :class:`Answer`. A subclass that changes what is attributed does not inherit it.

It says what it is like by attributes of the class:

- ``_row_by_row``: whether each row must have an output of its own. True as a rule, and False for a
  :class:`PerturbationAttribution`.
- ``_gives_one_number``: whether the target of a program must leave one number a row.
- ``_stacks_rows``: whether a program differentiates rows beside the inputs in the same call.

All else with an underscore, and all of ``fastxai.core``, may change with any version.
"""

from .attr._base import Attribution, GradientAttribution, captum_compatible
from .attr._coalition_program import coalitions_replaced, groups_for_all
from .attr._explanation import Result
from .attr._perturbation import PerturbationAttribution
from .core.checks import check
from .core.engine import Gradients, gradient_sum, gradients, stream, values
from .core.engine.coalition_rows import AblationRows, CoalitionRows, MaskPieces, OrderRows
from .core.engine.groups import FeatureGroups, check_feature_mask
from .core.engine.inputs import Inputs
from .core.engine.noisy_rows import NoisyRows
from .core.engine.request import Request
from .core.engine.rows import (
    BaselinePairRows,
    InputAndBaselineRows,
    InputRows,
    PathRows,
    PermutedRows,
    PerturbedRows,
    Rows,
    row_bytes,
)
from .core.program.program import Answer, Replaced, TracedRequest, gradients_of, values_of

__all__ = [
    "AblationRows",
    "Answer",
    "Attribution",
    "BaselinePairRows",
    "CoalitionRows",
    "FeatureGroups",
    "GradientAttribution",
    "Gradients",
    "InputAndBaselineRows",
    "InputRows",
    "Inputs",
    "MaskPieces",
    "NoisyRows",
    "OrderRows",
    "PathRows",
    "PermutedRows",
    "PerturbationAttribution",
    "PerturbedRows",
    "Replaced",
    "Request",
    "Result",
    "Rows",
    "TracedRequest",
    "captum_compatible",
    "check",
    "check_feature_mask",
    "coalitions_replaced",
    "gradient_sum",
    "gradients",
    "gradients_of",
    "groups_for_all",
    "row_bytes",
    "stream",
    "values",
    "values_of",
]
