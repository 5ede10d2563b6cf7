"""What a row costs the model: the bytes that are written for it, and multiplications."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from typing_extensions import Self


@dataclass(frozen=True)
class RowCost:
    """What is known of a model's work for one row."""

    bytes_written: int
    is_opaque: bool  # whether the output comes from code that does not call torch's operations


class Watching(TorchDispatchMode):
    """A mode that sees operations and changes nothing."""

    # torch's own __enter__ and __exit__ keep flags for the whole process, which threads would
    # overwrite for each other.

    def __enter__(self) -> Self:
        _python_dispatch._push_mode(self)
        return self

    def __exit__(self, *error: object) -> None:
        _python_dispatch._pop_mode()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True  # compiled code is to run as it does in any other call

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # which would import it, for some seconds


class Multiplications(Watching):
    """Counts the multiplications of matrix products, convolutions and attention.

    As torch's FlopCounterMode, which imports the compiler.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        count = flop_registry.get(func._overloadpacket)
        if count is None:
            with self:  # of what comes in one piece, as it does in inference mode
                result = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if result is NotImplemented else result
        result = func(*args, **kwargs)
        self.count += count(*args, **kwargs, out_val=result) // 2
        return result


class Footprint(Watching):
    """Follows rows through the operations of one call of the model and adds up what is written.

    What comes from the rows is known by its storage: that of the rows themselves, and that of every
    result of an operation on what comes from them. So weights never count, whether they require
    gradients or not, are quantised, folded or made anew in each call, and whatever their shape.
    Operations in other threads and outside torch are not seen.

    Args:
        rows: what the model is called with, tensors of any shapes.
    """

    def __init__(self, rows: Iterable[Tensor]):
        super().__init__()  # type: ignore[no-untyped-call]
        self._bytes_written = 0  # new memory; views and writes in place take none
        # Weak references: nothing is kept alive, and no address is mistaken for a former one.
        self._reached: dict[int, StorageWeakRef] = {}
        for tensor in rows:
            self._reach(tensor)

    def cost(self, output: Tensor, rows: int) -> RowCost:
        """What one of so many rows cost, in a call that gave this output."""
        return RowCost(self._bytes_written // rows, not self._has_reached(output))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        reached = [t for t in _tensors((*args, *kwargs.values())) if self._has_reached(t)]
        if reached:
            self._bytes_written += _written_inside(func, args, reached)
            for tensor in _tensors((result,)):
                if not self._has_reached(tensor):
                    self._bytes_written += tensor.numel() * tensor.element_size()
                    self._reach(tensor)
        return result

    def _has_reached(self, tensor: Tensor) -> bool:
        storage = _storage(tensor)
        return storage is not None and storage._cdata in self._reached

    def _reach(self, tensor: Tensor) -> None:
        storage = _storage(tensor)
        if storage is not None:
            self._reached[storage._cdata] = StorageWeakRef(storage)


def _written_inside(func: Any, args: tuple[Any, ...], reached: list[Tensor]) -> int:
    """The bytes that a fused operation writes for its rows beside its results.

    It shows by its weight matrices, [out, in], as those of an LSTM or of a layer of a transformer:
    each makes as many numbers as it has rows of every position, and those with equally many, of an
    input and of a state, the same ones. Those of a single matrix are the result.
    """
    named = zip(func._schema.arguments, args, strict=False)
    weights = [*_tensors(a for argument, a in named if "weight" in argument.name)]
    widths = [w.shape[0] for w in weights if w.dim() == 2]
    if len(widths) < 2:
        return 0
    last = [(t.numel() // max(1, t.shape[-1]), t.element_size()) for t in reached if t.dim()]
    return sum(set(widths)) * max((count * size for count, size in last), default=0)


def is_watched() -> bool:
    """Whether something else sees every operation: a tracer, to whom tensors have no values."""
    if torch._C._len_torch_dispatch_stack() == 0:
        return False
    modes = _python_dispatch._get_current_dispatch_mode_stack()
    return not all(isinstance(mode, Watching) for mode in modes)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among an operation's arguments or results, those in lists too."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _storage(tensor: Tensor) -> torch.UntypedStorage | None:
    """None for tensors that have none, as sparse ones."""
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None
