"""The two colours of all pictures and tables."""

from __future__ import annotations

# Orange and blue are told apart by everyone, and stand out from white and from black (3 : 1).
RAISES = "#DD6B20"
LOWERS = "#3182CE"


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of ``#RRGGBB``."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue
