"""Loads a package: an explanation and its model as one function."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.inputs import ArgumentError, TensorOrTuple
from .manifest import Argument, Manifest, PackageError, file_digest


class Explained(NamedTuple):
    """What a package returns.

    Attributes:
        outputs: all outputs of the model at the inputs, [B, *C].
        attributions: as the method's ``attribute`` returns them.
        convergence_delta: [B]; None for a method without.
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
    """

    def __init__(self, manifest: Manifest, run: Callable[[list[Tensor]], list[Tensor]]):
        self.manifest = manifest
        self._run = run
        self._device = torch.device(manifest.device.split(",")[0]).type
        self._dtypes = [getattr(torch, a.dtype) for a in manifest.arguments]
        names = [a.name for a in manifest.arguments]
        self._counts = {
            kind: sum(name.split("[")[0] == kind for name in names)
            for kind in ("inputs", "target", "baselines", "additional_forward_args")
        }

    def __call__(
        self,
        inputs: TensorOrTuple,
        target: Tensor | None = None,
        baselines: TensorOrTuple | None = None,
        additional_forward_args: TensorOrTuple | None = None,
    ) -> Explained:
        """Predicts and explains.

        Args:
            inputs: a tensor [B, *F], or a tuple of them, as at export; any B.
            target: which output is explained, [B] int64, if the package takes it.
            baselines: one for each input, if the package takes them.
            additional_forward_args: those of them that have a row for each example.

        Returns:
            Outputs and attributions.

        Raises:
            ArgumentError: an argument is missing, is not taken, or is not as ``manifest`` says.
        """
        tensors = [
            *self._given("inputs", inputs),
            *self._given("target", target),
            *self._given("baselines", baselines),
            *self._given("additional_forward_args", additional_forward_args),
        ]
        batch = tensors[0].shape[0] if tensors[0].dim() else 0
        for tensor, argument, dtype in zip(
            tensors, self.manifest.arguments, self._dtypes, strict=True
        ):
            # Compiled code looks at none of this, and would read beyond a tensor's end.
            if (
                tensor.shape != (batch, *argument.shape)
                or tensor.dtype != dtype
                or tensor.device.type != self._device
            ):
                self._refuse(tensor, argument, batch)
            if argument.name == "target" and batch > 0:
                self._check_range(tensor)
        with torch.no_grad():
            if batch == 0:  # what a model does with nothing is not to be asked
                ones = [tensor.new_zeros(1, *tensor.shape[1:]) for tensor in tensors]
                return self._pack([result[:0] for result in self._run(ones)])
            return self._pack(self._run([tensor.contiguous() for tensor in tensors]))

    def _given(self, name: str, value: Any) -> tuple[Tensor, ...]:
        count = self._counts[name]
        tensors = () if value is None else value if isinstance(value, tuple) else (value,)
        if len(tensors) != count:
            expected = f"{count} tensors" if count else "none: it was built in, or is not used"
            raise ArgumentError(f"{name}: expected {expected}, got {len(tensors) or None}")
        for tensor in tensors:
            if not isinstance(tensor, Tensor):
                raise ArgumentError(f"{name}: expected tensors, got a {type(tensor).__name__}")
        return tensors

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

    def _refuse(self, tensor: Tensor, argument: Argument, batch: int) -> None:
        raise ArgumentError(
            f"{argument.name}: expected {argument.dtype} of shape {(batch, *argument.shape)} on "
            f"{self._device}, got {str(tensor.dtype)[6:]} of shape {tuple(tensor.shape)} on "
            f"{tensor.device}"
        )

    def _pack(self, results: list[Tensor]) -> Explained:
        count = self._counts["inputs"]
        by_name: dict[str, Any] = {}
        for result, tensor in zip(self.manifest.results, results, strict=True):
            by_name.setdefault(result.name.split("[")[0], []).append(tensor)
        in_tuple = self.manifest.inputs_in_tuple and len(by_name["attributions"]) == count
        for name, tensors in by_name.items():
            several = in_tuple and name in ("attributions", "standard_errors")
            by_name[name] = tuple(tensors) if several else tensors[0]
        return Explained(**by_name)

    def __repr__(self) -> str:
        m = self.manifest
        taken = ", ".join(
            f"{a.name} {a.dtype} [B{''.join(f', {n}' for n in a.shape)}]" for a in m.arguments
        )
        return (
            f"Package({m.method} of {taken}; {m.format}, {m.device}, torch {m.versions['torch']})"
        )


def load(path: str | os.PathLike[str], *, sha256: str | None = None) -> Package:
    """Loads what :func:`export` wrote.

    A package is native code (in the format "torch", a program): load only what you have built, or
    what has the ``sha256`` that :func:`export` told where it was built.

    Args:
        path: the file.
        sha256: the file's SHA-256 in hexadecimal digits, compared before anything else.

    Raises:
        PackageError: the file is missing, damaged, another than ``sha256`` says, or was made for
            another torch, processor or device. Nothing of it has run then.
    """
    file = Path(path)
    if not file.is_file():
        raise PackageError(f"{file}: there is no such file")
    if sha256 is not None:
        found = file_digest(file)
        if found != sha256.lower():
            raise PackageError(f"{file}: its SHA-256 is {found}, expected {sha256}")
    manifest = Manifest.of_file(file)
    manifest.check_runs_here()
    return Package(manifest, _native(file) if manifest.format == "aoti" else _program(file))


def _native(path: Path) -> Callable[[list[Tensor]], list[Tensor]]:
    from torch._inductor import aoti_load_package

    return aoti_load_package(str(path)).loader.run


def _program(path: Path) -> Callable[[list[Tensor]], list[Tensor]]:
    module = torch.export.load(path).module()
    return lambda tensors: module(*tensors)
