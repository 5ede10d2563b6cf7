"""lime's explainer of tables, with its interface and the names of its modules."""

from . import discretize, explanation, lime_base, lime_tabular
from .discretize import (
    BaseDiscretizer,
    DecileDiscretizer,
    EntropyDiscretizer,
    QuartileDiscretizer,
    StatsDiscretizer,
)
from .explanation import DomainMapper, Explanation
from .lime_base import LimeBase
from .lime_tabular import LimeTabularExplainer, RecurrentTabularExplainer

__all__ = [
    "BaseDiscretizer",
    "DecileDiscretizer",
    "DomainMapper",
    "EntropyDiscretizer",
    "Explanation",
    "LimeBase",
    "LimeTabularExplainer",
    "QuartileDiscretizer",
    "RecurrentTabularExplainer",
    "StatsDiscretizer",
    "discretize",
    "explanation",
    "lime_base",
    "lime_tabular",
]
