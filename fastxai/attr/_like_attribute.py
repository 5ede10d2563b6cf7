"""Methods that take the arguments of a class's own ``attribute``, and show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, getattr_static, signature
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from ..core.checks import TensorOrTuple

if TYPE_CHECKING:
    from ..deploy import Package

P = ParamSpec("P")
_OF_ANY_NUMBER = Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD
R_co = TypeVar("R_co", covariant=True)


class _Attributing(Protocol[P]):
    @property
    def attribute(self) -> Callable[P, Any]: ...


class _AttributingInputs(Protocol[P]):
    @property
    def attribute(self) -> Callable[Concatenate[Any, P], Any]: ...


class _Compile(Protocol[P]):
    @overload
    def __call__(
        self, example_inputs: TensorOrTuple, *args: P.args, **kwargs: P.kwargs
    ) -> Package: ...
    @overload
    def __call__(
        self,
        example_inputs: TensorOrTuple,
        *,
        standard_errors: bool | None,
        **attribute_arguments: Any,
    ) -> Package: ...


class _Shown:
    """A method whose signature every class has after its own ``attribute``.

    Type checkers do as much, by what ``__get__`` promises; of an ``attribute`` that is overloaded
    they may take the first signature.
    """

    def __init__(self, function: Callable[..., Any]):
        self._function, self.__doc__ = function, function.__doc__

    def like(self, cls: type, attribute: Callable[..., Any]) -> _Shown:
        """The same for a class with that ``attribute``."""
        shown = _copy(self._function)
        shown.__qualname__ = f"{cls.__qualname__}.{shown.__name__}"
        own = signature(shown)
        parameters = self._merged(own.parameters, [*signature(attribute).parameters.values()])
        shown.__signature__ = own.replace(parameters=parameters)
        return type(self)(shown)

    @staticmethod
    def _merged(own: Mapping[str, Parameter], others: list[Parameter]) -> list[Parameter]:
        return [p for p in others if p.name != "return_convergence_delta"]  # always told

    def __get__(self, method: Any, owner: type | None = None) -> Any:
        return self._function if method is None else MethodType(self._function, method)


class LikeAttribute(_Shown, Generic[R_co]):
    """A method that takes what ``attribute`` takes."""

    if TYPE_CHECKING:

        def __init__(self, function: Callable[..., R_co]): ...
        @overload
        def __get__(self, method: None, owner: type | None = None) -> Callable[..., R_co]: ...
        @overload
        def __get__(
            self, method: _Attributing[P], owner: type | None = None
        ) -> Callable[P, R_co]: ...
        def __get__(self, method: Any, owner: type | None = None) -> Any: ...


class CompileLikeAttribute(_Shown):
    """``compile``, which takes example inputs, and by name what ``attribute`` takes beside them."""

    @staticmethod
    def _merged(own: Mapping[str, Parameter], others: list[Parameter]) -> list[Parameter]:
        rest = [p for p in others if p.kind is Parameter.VAR_KEYWORD]
        named = [p for p in others[2:] if p.kind not in _OF_ANY_NUMBER]
        by_name = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in named]
        return [others[0], own["example_inputs"], *by_name, own["standard_errors"], *rest]

    if TYPE_CHECKING:

        @overload
        def __get__(self, method: None, owner: type | None = None) -> Callable[..., Package]: ...
        @overload
        def __get__(
            self, method: _AttributingInputs[P], owner: type | None = None
        ) -> _Compile[P]: ...
        def __get__(self, method: Any, owner: type | None = None) -> Any: ...


def show_signatures(cls: type) -> None:
    """Gives a class methods with the signatures that its own ``attribute`` asks for."""
    attribute = getattr(cls, "attribute", None)
    for name in ("explain", "plan", "compile"):
        method = getattr_static(cls, name)
        if attribute is not None and isinstance(method, _Shown):  # not one of the user's own
            setattr(cls, name, method.like(cls, attribute))


def _copy(function: Any) -> Any:
    parts = function.__code__, function.__globals__, function.__name__, function.__defaults__
    copy = FunctionType(*parts, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__annotations__ = function.__annotations__
    copy.__doc__, copy.__module__ = function.__doc__, function.__module__
    return copy
