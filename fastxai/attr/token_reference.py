"""Baselines for text."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.checks import ArgumentError, check_count


class TokenReferenceBase:
    """Makes baselines of one token, that of padding, say, for models that take ids.

    Args:
        reference_token_idx: the token's id.

    Raises:
        ArgumentError: it is not an integer of at least 0.
    """

    def __init__(self, reference_token_idx: int = 0):
        self.reference_token_idx = check_count(reference_token_idx, "reference_token_idx", 0)

    def generate_reference(
        self, sequence_length: int, device: torch.device | str | None = None
    ) -> Tensor:
        """Returns the token so many times, [sequence_length] int64.

        As a baseline it stands for every row.

        Raises:
            ArgumentError: the length is not an integer of at least 0.
        """
        length = check_count(sequence_length, "sequence_length", 0)
        try:
            device = None if device is None else torch.device(device)
        except (RuntimeError, TypeError, ValueError) as error:
            expected = "a torch.device, its name or None"
            raise ArgumentError(f"device: expected {expected}, got {device!r}") from error
        return torch.full((length,), self.reference_token_idx, dtype=torch.int64, device=device)
