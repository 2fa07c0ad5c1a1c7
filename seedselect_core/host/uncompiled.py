"""Run a model that a node compiles with ``torch.compile`` as it is written.

Compiled graphs of the host's models cannot be differentiated: they add in place to what their own
backward pass needs. Values are those of the plain model, up to the rounding of fused kernels.
"""

import contextlib
from collections.abc import Iterator

from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY


@contextlib.contextmanager
def uncompiled(transformer_options: dict) -> Iterator[None]:
    """Leave out the wrapper that puts compiled modules in place of the model's.

    Args:
        transformer_options: of the model options that are sampled with.
    """
    wrappers = transformer_options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {})
    compiled = wrappers.pop(COMPILE_KEY, None)
    try:
        yield
    finally:
        if compiled is not None:
            wrappers[COMPILE_KEY] = compiled
