"""Explanations as operations on tensors, to be traced. Knows no method by its type or name."""
