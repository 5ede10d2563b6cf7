"""How far explanations may be trusted: ``captum.metrics`` made fast."""

from .infidelity import infidelity, infidelity_perturb_func_decorator
from .sensitivity import sensitivity_max

__all__ = ["infidelity", "infidelity_perturb_func_decorator", "sensitivity_max"]
