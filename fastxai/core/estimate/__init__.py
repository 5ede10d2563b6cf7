"""Estimates from numbers alone: designs, fits, errors and budgets. Knows no model."""
