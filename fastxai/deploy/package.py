"""Loads a package: an explanation and its model as one function."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import treespec_loads

from ..core.checks import ArgumentError, TensorOrTuple, check, check_seed, short_list
from ..core.engine.request import check_no_nan
from ..core.program.call import Argument
from .manifest import Manifest, PackageError
from .schema import ARGUMENTS

Run = Callable[[list[Tensor]], Sequence[Tensor]]  # a program: arguments to results


class Explained(NamedTuple):
    """What a package returns.

    Attributes:
        outputs: all outputs of the model at the inputs, [B, *C].
        attributions: as the method's ``attribute`` returns them.
        convergence_delta: [B]; None for a method without. With samples for each example one for
            each, [B · n], those of an example together.
        standard_errors: in the attributions' form; None for a method without.
    """

    outputs: Tensor
    attributions: TensorOrTuple
    convergence_delta: Tensor | None = None
    standard_errors: TensorOrTuple | None = None


class Package:
    """An explanation and its model as one function of tensors. Threads may share it.

    Attributes:
        manifest: what it is: method, arguments, versions, the weights' fingerprint.
        rows: how many rows a call has; None for any number.
    """

    def __init__(self, manifest: Manifest, run: Run, rows: int | None = None):
        self.manifest = manifest
        self.rows = rows
        self._run = run
        self._device = torch.device(manifest.device.split(",")[0]).type
        of_rows = [a for a in manifest.arguments if a.rows]  # which come first
        self._expected = [(a, a.shape, getattr(torch, a.dtype)) for a in of_rows]
        taken = [a.name.split("[")[0] for a in manifest.arguments]
        self._counts = [(name, taken.count(name)) for name in ARGUMENTS]
        self._draws = "seed" in taken
        # An infinite number in a group that is absent must leave no trace: 0 · ∞ would.
        self._is_finite_only = manifest.affine_prefix and manifest.magnitude
        self._places = _places([r.name.split("[")[0] for r in manifest.results], manifest)

    def __call__(
        self,
        inputs: TensorOrTuple,
        target: Tensor | None = None,
        baselines: TensorOrTuple | None = None,
        additional_forward_args: TensorOrTuple | None = None,
        *,
        seed: int | None = None,
    ) -> Explained:
        """Predicts and explains.

        Args:
            inputs: a tensor [B, *F], or a tuple of them, as at export; any B, unless it was
                compiled for one.
            target: which output is explained, [B] int64, if the package takes it.
            baselines: one for each input, if the package takes them.
            additional_forward_args: those of them that have a row for each example.
            seed: of what the method draws, if it draws in every call and none was built in: the
                same seed gives the same samples; None takes one from torch's default generator.

        Returns:
            Outputs and attributions.

        Raises:
            ArgumentError: an argument is missing, is not taken, or is not as ``manifest`` says; or
                the package is of a method that compares outputs, on a CPU, and one is NaN. One
                that is infinite is a warning. Both name the row. Such a package does not take
                infinite inputs if its manifest has ``affine_prefix``.
        """
        tensors: list[Tensor] = []
        drawn_by = torch.tensor(check_seed(seed)) if self._draws or seed is not None else None
        values = (inputs, target, baselines, additional_forward_args, drawn_by)
        for value, (name, count) in zip(values, self._counts, strict=True):
            given = () if value is None else value if isinstance(value, tuple) else (value,)
            if len(given) != count:
                self._refuse_count(name, count, len(given))
            tensors += given
        first = tensors[0].shape if isinstance(tensors[0], Tensor) else ()
        batch = self.rows or (first[0] if first else 0)
        for i, (argument, shape, dtype) in enumerate(self._expected):
            tensor = tensors[i]
            # Compiled code looks at none of this, and would read beyond a tensor's end.
            if (
                not isinstance(tensor, Tensor)
                or tensor.dtype is not dtype
                or tensor.shape != (batch, *shape)
                or tensor.device.type != self._device
            ):
                self._refuse(tensor, argument, batch)
            if argument.name == "target" and batch > 0:
                self._check_range(tensor)
            if self._is_finite_only and tensor.is_floating_point():
                _check_finite(tensor, argument.name)
            tensors[i] = (tensor.detach() if tensor.requires_grad else tensor).contiguous()
        if batch == 0:  # what a model does with nothing is not to be asked
            of_rows = len(self._expected)
            ones = [tensor.new_zeros(1, *tensor.shape[1:]) for tensor in tensors[:of_rows]]
            ones += tensors[of_rows:]
            results = [result[:0] for result in self._run(ones)]
        else:
            results = list(self._run(tensors))
        if self.manifest.magnitude:
            check_no_nan(results.pop()[None], 0)
        return Explained(*[_at(results, place) for place in self._places])

    @staticmethod
    def _refuse_count(name: str, count: int, got: int) -> None:
        expected = f"{count} tensors" if count else "none: it was built in, or is not used"
        raise ArgumentError(f"{name}: expected {expected}, got {got or None}")

    def _check_range(self, target: Tensor) -> None:  # [B] or [B, k]
        # Only where looking is free: on an accelerator it would make the call wait for the device.
        if target.device.type != "cpu":
            return
        sizes = self.manifest.results[0].shape
        columns = target.reshape(target.shape[0], -1).unbind(1)
        for column, size in zip(columns, sizes, strict=False):
            low, high = (int(end) for end in column.aminmax())
            if low < -size or high >= size:
                raise IndexError(
                    f"target: {high if high >= size else low} is out of range for outputs of shape "
                    f"{(target.shape[0], *sizes)}"
                )

    def _refuse(self, tensor: Any, argument: Argument, batch: int) -> None:
        expected = f"{argument.dtype} of shape {(batch, *argument.shape)} on {self._device}"
        got = f"a {type(tensor).__name__}"
        if isinstance(tensor, Tensor):
            dtype = str(tensor.dtype).removeprefix("torch.")
            got = f"{dtype} of shape {tuple(tensor.shape)} on {tensor.device}"
        if self.rows is not None:
            expected += ", as it was compiled for"
        raise ArgumentError(f"{argument.name}: expected {expected}, got {got}")

    def __repr__(self) -> str:
        m, rows = self.manifest, self.rows or "B"
        taken = ", ".join(
            f"{a.name} {a.dtype} [{rows}{''.join(f', {n}' for n in a.shape)}]" if a.rows else a.name
            for a in m.arguments
        )
        return (
            f"Package({m.method} of {taken}; {m.format}, {m.device}, torch {m.versions['torch']})"
        )


def _check_finite(tensor: Tensor, name: str) -> None:  # [B, *F]
    if math.isfinite(tensor.sum()):
        return
    odd = ~tensor.isfinite().reshape(len(tensor), -1).all(1)
    expected = (
        "finite numbers, as this package does affine operations at the model's beginning on few "
        "rows for all; the explainer's affine_prefix=False makes one that takes others"
    )
    rows = odd.nonzero()[:, 0].tolist()  # none where the sum alone is infinite
    check(not rows, name, expected, f"others in rows {short_list(rows)}")


def _at(results: list[Tensor], place: int | slice | None) -> Any:
    if place is None:
        return None
    return tuple(results[place]) if isinstance(place, slice) else results[place]


def _places(names: list[str], manifest: Manifest) -> list[int | slice | None]:
    """Where among the results each field of :class:`Explained` is."""
    places: list[int | slice | None] = []
    inputs = sum(a.name.startswith("inputs") for a in manifest.arguments)
    for field in Explained._fields:
        first, count = (names.index(field), names.count(field)) if field in names else (0, 0)
        in_form = manifest.inputs_in_tuple and count == inputs
        several = in_form and field in ("attributions", "standard_errors")
        places.append(slice(first, first + count) if several else first if count else None)
    return places


def load(path: str | os.PathLike[str], *, sha256: str | None = None) -> Package:
    """Loads what :func:`export` wrote.

    A package is native code (in the format "torch", a program): load only what you have built, or
    what has the ``sha256`` that :func:`export` told where it was built.

    The file is read once, into a temporary directory of this process, where it is checked and
    loaded: what replaces it meanwhile changes nothing.

    Args:
        path: the file.
        sha256: the file's SHA-256 in hexadecimal digits, compared before anything else.

    Raises:
        ArgumentError: an argument is not as above.
        PackageError: the file is missing, damaged, another than ``sha256`` says, or was made for
            another torch, processor or device. Nothing of it has run then.
    """
    check(isinstance(path, str | os.PathLike), "path", "a path", type(path).__name__)
    fine = sha256 is None or (
        isinstance(sha256, str) and re.fullmatch(r"[0-9a-fA-F]{64}", sha256) is not None
    )
    check(fine, "sha256", "64 hexadecimal digits or None", repr(sha256))
    file = Path(path)
    with TemporaryDirectory(prefix="fastxai-") as folder:
        try:
            return _load(Path(folder, "package.pt2"), file, sha256)
        except PackageError as error:
            raise PackageError(f"{file}: {error}") from error


def _load(copy: Path, file: Path, sha256: str | None) -> Package:
    """The package in a copy of the file that is to be made there."""
    found = _copy(file, copy)
    if sha256 is not None and found != sha256.lower():
        raise PackageError(f"its SHA-256 is {found}, expected {sha256}")
    manifest = Manifest.of_file(copy)
    manifest.check_runs_here()
    try:
        run = _native(copy, manifest) if manifest.format == "aoti" else _program(copy, manifest)
    except (PackageError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise PackageError(f"its program cannot be loaded: {error}") from error
    return Package(manifest, run)


def _copy(file: Path, to: Path) -> str:
    """Copies a file and tells its SHA-256."""
    if not file.is_file():
        raise PackageError("there is no such file")
    digest = hashlib.sha256()
    try:
        with file.open("rb") as source, to.open("xb") as target:
            while block := source.read(1 << 20):
                digest.update(block)
                target.write(block)
    except OSError as error:
        raise PackageError(f"cannot be read: {error}") from error
    return digest.hexdigest()


def _native(path: Path, manifest: Manifest) -> Run:
    # As torch._inductor.aoti_load_package, whose import of the compiler takes seconds.
    from torch._C import _aoti

    single_threaded, runners, device = False, 1, -1
    loader = _aoti.AOTIModelPackageLoader(str(path), "model", single_threaded, runners, device)
    taken, returned = (treespec_loads(spec).num_leaves for spec in loader.get_call_spec())
    _check_counts(manifest, taken, returned)
    return loader.run


def _program(path: Path, manifest: Manifest) -> Run:
    program = torch.export.load(path)
    signature = program.graph_signature
    _check_counts(manifest, len(signature.user_inputs), len(signature.user_outputs))
    module = program.module()

    @torch.no_grad()
    def run(tensors: list[Tensor]) -> Sequence[Tensor]:
        results: Sequence[Tensor] = module(*tensors)
        return results

    return run


def _check_counts(manifest: Manifest, taken: int, returned: int) -> None:
    """Native code that is called with too few tensors would read what is not there."""
    results = len(manifest.results) + manifest.magnitude
    if (taken, returned) != (len(manifest.arguments), results):
        raise PackageError(
            f"its program takes {taken} tensors and returns {returned}; its manifest tells of "
            f"{len(manifest.arguments)} and {results}"
        )
