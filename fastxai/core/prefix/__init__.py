"""Rows that stay affine up to a model's first operation that is not."""

from . import operations

__all__ = ["operations"]  # which enters what rows follow in their table
