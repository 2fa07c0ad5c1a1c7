"""The host's sampling functions without what keeps gradients from passing through them.

- They are decorated with ``torch.no_grad()``. The decorator keeps the plain function, and since a
  sampler may call further decorated functions of its module, all of them are exchanged.
- Some (`sample_deis`, `sample_ipndm_v`) detach the predictions of earlier steps before they use
  them again. Here ``detach`` returns the tensor itself, whose values are the same.
"""

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Iterator

import torch

# What ``torch.no_grad()`` and ``torch.inference_mode()`` put around a function, and nothing else:
# other decorators do something that the function needs.
_DECORATED = torch.no_grad()(lambda: None).__code__


def plain_function(function: Callable) -> Callable:
    """``function`` with gradients; itself where nothing stands in their way."""
    if isinstance(function, functools.partial):
        plain = plain_function(function.func)
        return functools.partial(plain, *function.args, **function.keywords)
    if inspect.ismethod(function):
        return types.MethodType(plain_function(function.__func__), function.__self__)
    while getattr(function, "__code__", None) is _DECORATED:
        function = function.__wrapped__
    return _attached(function) if inspect.isfunction(function) else function


def namespace_of(function: Callable) -> dict:
    """Of the module in which ``function`` was written; empty where there is none to be found."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(inspect.unwrap(function), "__globals__", {})


def _attached(function: types.FunctionType) -> types.FunctionType:
    """The same function, calling ``x.positive()``, which is x, where it called ``x.detach()``."""
    code = function.__code__
    if "detach" not in code.co_names:
        return function
    names = tuple("positive" if name == "detach" else name for name in code.co_names)
    attached = types.FunctionType(
        code.replace(co_names=names),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    attached.__kwdefaults__ = function.__kwdefaults__
    return attached


@contextlib.contextmanager
def plain_functions(namespace: dict) -> Iterator[None]:
    """Exchange every function of a module's ``namespace`` by its `plain_function`, and back."""
    before = {name: value for name, value in namespace.items() if inspect.isfunction(value)}
    try:
        namespace.update({name: plain_function(value) for name, value in before.items()})
        yield
    finally:
        namespace.update(before)
