"""Explanations compiled with their model into one file, and served from it."""

from ..core.program.call import Argument
from .export import export
from .manifest import Manifest, PackageError, fingerprint
from .package import Explained, Package, load

__all__ = [
    "Argument",
    "Explained",
    "Manifest",
    "Package",
    "PackageError",
    "export",
    "fingerprint",
    "load",
]
