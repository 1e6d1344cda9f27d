"""``@configurable``: one constructor for explicit arguments and for a config.

The class (or function) itself only knows explicit, typed arguments. Its ``from_config(cfg, ...)`` says once how a
config turns into them, and the decorator lets callers pass either.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from yacs.config import CfgNode as YacsNode


def configurable(
    init_func: Callable[..., Any] | None = None, *, from_config: Callable[..., dict[str, Any]] | None = None
) -> Callable[..., Any]:
    """Lets a constructor or a function also be called with a ``CfgNode``.

    On a class, decorate ``__init__`` and write a classmethod ``from_config(cls, cfg, ...)`` that returns the
    constructor's arguments. On a function, give that translation as ``@configurable(from_config=...)``. A call whose
    first argument is a ``CfgNode`` goes through ``from_config``; keyword arguments that ``from_config`` does not take
    override its result.

    Args:
        init_func: The ``__init__`` to decorate.
        from_config: The translation, for a function.

    Raises:
        AssertionError: When decorating something else than an ``__init__``, or when ``from_config`` is no function.
        AttributeError: At the call, if the class has no ``from_config``.
        TypeError: At the call, if ``from_config`` is not a classmethod or its first argument is not named ``cfg``.
    """
    if init_func is not None:
        is_init = inspect.isfunction(init_func) and init_func.__name__ == "__init__"
        if not is_init or from_config is not None:
            raise AssertionError(
                "@configurable goes on __init__ without arguments, or on a function as @configurable(from_config=...)."
            )
        return _configurable_init(init_func)
    if from_config is None:
        return configurable  # written with empty parentheses
    if not inspect.isfunction(from_config):
        raise AssertionError(f"@configurable(from_config=...) needs a function, not {from_config!r}.")
    return functools.partial(_configurable_function, from_config=from_config)


def _configurable_init(init_func: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init_func)
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        cls = type(self)
        translate = getattr(cls, "from_config", None)
        if translate is None:
            raise AttributeError(f"{cls.__name__} has a @configurable constructor but no classmethod 'from_config'.")
        if not inspect.ismethod(translate):
            raise TypeError(f"{cls.__name__}.from_config must be a classmethod to serve a @configurable constructor.")
        if _has_config(args, kwargs):
            args, kwargs = (), _explicit_arguments(translate, args, kwargs)
        init_func(self, *args, **kwargs)

    return construct


def _configurable_function(
    function: Callable[..., Any], *, from_config: Callable[..., dict[str, Any]]
) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _has_config(args, kwargs):
            args, kwargs = (), _explicit_arguments(from_config, args, kwargs)
        return function(*args, **kwargs)

    call.from_config = from_config  # type: ignore[attr-defined]
    return call


def _has_config(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """A ``cfg`` of another type is an argument of the function's own, not a config."""
    return isinstance(args[0] if args else kwargs.get("cfg"), YacsNode) or isinstance(kwargs.get("cfg"), YacsNode)


def _explicit_arguments(
    translate: Callable[..., dict[str, Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Runs ``from_config`` on what it accepts; the remaining keywords override what it returns."""
    parameters = inspect.signature(translate).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{getattr(translate, '__qualname__', translate)} must take 'cfg' as its first argument.")
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return translate(*args, **kwargs)
    taken = {name: value for name, value in kwargs.items() if name in parameters}
    overrides = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**translate(*args, **taken), **overrides}
