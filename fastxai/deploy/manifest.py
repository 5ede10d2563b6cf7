"""What a package says about itself, in plain text that can be read before anything of it runs."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.program.call import Argument
from ..ops import native, reference
from . import archive, schema

FORMATS = ("aoti", "torch")
ENTRY = "fastxai.json"  # among the archive's extra files
_VERSION = 3  # of what is in it
_EXTENSIONS = re.compile(r"(sse|ssse|avx|amx|fma|bmi|f16c|abm|popcnt|movbe|adx|v?aes|sha|gfni)")


class PackageError(RuntimeError):
    """A package is damaged, is not the one that was meant, or cannot run or be made here."""


@dataclass(frozen=True)
class Manifest:
    """What a package is.

    Attributes:
        method: the method's name, "Integrated Gradients".
        options: the arguments that were built in, in words.
        arguments: the tensors that the program takes, in order; each with the batch first, but for
            the seed.
        results: the tensors that it returns, in order.
        magnitude: whether the program returns one more tensor after the results, [B]: the largest
            magnitude of the outputs that it compared for each example, which is not finite where
            one of them is not.
        rows_interact: whether the rows of a call influence one another in the model, so that it
            matters which come together.
        affine_prefix: whether affine operations at the model's beginning are done on few rows for
            all, which takes finite numbers.
        inputs_in_tuple: whether inputs and attributions come in a tuple.
        outputs: how many numbers the model gives for each row, by dimension.
        fingerprint: of the model's weights, as :func:`fingerprint` makes it.
        needs_library: whether the program calls an op of fastxai's compiled library.
        format: "aoti", native code; "torch", a portable program; or "cuda graph", in one process.
        device: "cpu" or "cuda", and the GPU's compute capability.
        versions: of fastxai, torch and Python when it was made.
        machine: what it was compiled for: system, processor and its instruction sets.
    """

    method: str
    options: dict[str, str]
    arguments: tuple[Argument, ...]
    results: tuple[Argument, ...]
    magnitude: bool
    rows_interact: bool
    affine_prefix: bool
    inputs_in_tuple: bool
    fingerprint: str
    needs_library: bool
    format: str
    device: str
    versions: dict[str, str]
    machine: dict[str, str]

    def to_json(self) -> str:
        """The text that a package keeps of it."""
        return json.dumps({"fastxai_package": _VERSION, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """What :meth:`to_json` wrote.

        Raises:
            ValueError: something else wrote it.
        """
        return cls(**schema.parsed(text, _VERSION, Argument))

    @classmethod
    def of_file(cls, path: Path) -> Manifest:
        """Reads it from a package, of which nothing runs; every checksum of the file must hold.

        Raises:
            PackageError: there is no package, or a damaged one, or one that something else made.
        """
        try:
            manifest = cls.from_json(archive.text_of(path, f"extra/{ENTRY}"))
        except OSError as error:
            raise PackageError(f"cannot be read: {error}") from error
        except ValueError as error:
            raise PackageError(
                "expected a package that fastxai.export of this version wrote, "
                f"got something else: {error}"
            ) from error
        if manifest.format not in FORMATS:
            raise PackageError(f"{manifest.format!r} is not a format of files")
        return manifest

    def check_runs_here(self) -> None:
        """Compares what the package was made for with what is here.

        Raises:
            PackageError: it would not run, or might not.
        """
        made, here = _release(self.versions["torch"]), _release(torch.__version__)
        compiled = self.format == "aoti"
        if (made != here) if compiled else (made > here):
            wanted = "that version" if compiled else "that version or a later one"
            raise PackageError(
                f"the package was made with torch {self.versions['torch']} and needs {wanted}; "
                f"here is torch {torch.__version__}. Export it again here"
            )
        if self.needs_library and native.backend() is reference:
            raise PackageError(
                "the package calls fastxai's compiled library, which is not here (see "
                "fastxai.build_info())"
            )
        if self.device.startswith("cuda"):
            self._check_gpu()
        if not compiled:
            return
        machine = machine_here()
        for part in ("system", "processor"):
            if self.machine[part] != machine[part]:
                raise PackageError(
                    f"the package was compiled for {self.machine[part]}; here is {machine[part]}"
                )
        missing = set(self.machine["extensions"].split()) - set(machine["extensions"].split())
        if missing:
            raise PackageError(
                "the package was compiled for a processor with instructions that this one has not: "
                f"{' '.join(sorted(missing))}. Export it on the kind of machine that it runs on"
            )

    def _check_gpu(self) -> None:
        here = device_here(torch.device("cuda")) if torch.cuda.is_available() else "no GPU"
        if here == "no GPU" or (self.format == "aoti" and here != self.device):
            raise PackageError(f"the package was made for {self.device}; here is {here}")


def machine_here() -> dict[str, str]:
    """System, processor and the instruction sets that compilers make use of."""
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "extensions": " ".join(_extensions()),
    }


def device_here(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    major, minor = torch.cuda.get_device_capability(device)
    return f"cuda, compute capability {major}.{minor}"


def _extensions() -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    words = line[1].split() if line else []
    return sorted(w for w in words if _EXTENSIONS.match(w) or platform.machine() == "aarch64")


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's parameters and buffers: their names, dtypes, shapes and every bit."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            digest.update(f"{name}={value!r};".encode())
            continue
        digest.update(f"{name}:{value.dtype}{tuple(value.shape)};".encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _release(version: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in str(version).split(".")[:2])
