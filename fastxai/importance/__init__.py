"""What a model's score owes to each column of a table, for whole data sets."""

from .permutation import Importances, permutation_importance

__all__ = ["Importances", "permutation_importance"]
