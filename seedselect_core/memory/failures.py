"""What fails in the host, a model or a device: told in words, or done again with less memory."""

import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management

from ..errors import SeedSelectError
from ..host.devices import ON_THIS_DEVICE, lacks_operation
from ..text import first_sentence, printable, quoted

PACK = Path(__file__).resolve().parents[2]

# Allocators that have no class of error for it: PyTorch's on the CPU, on Windows and elsewhere, of
# MPS and DirectML, and those of cuBLAS and cuDNN.
_FULL = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "could not allocate tensor",
    "alloc_failed",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is the device's, or the system's, that there is no memory left."""
    if isinstance(error, MemoryError) or comfy.model_management.is_oom(error):
        return True
    # Not those of other kinds: a `SeedSelectError` tells of it too.
    text = str(error).lower() if isinstance(error, RuntimeError) else ""
    return any(words in text for words in _FULL)


def failure(error: BaseException, where: str) -> SeedSelectError | None:
    """What an error that was raised outside of this pack tells the user.

    Args:
        where: what was done, "sampling".

    Returns:
        None for an error of this pack, and for a cancelled run.
    """
    stopped = comfy.model_management.InterruptProcessingException
    if isinstance(error, SeedSelectError | stopped) or not isinstance(error, Exception):
        return None
    if lacks_operation(error):
        return SeedSelectError(
            f"SeedSelect: {where} failed {ON_THIS_DEVICE}: {first_sentence(error)} Start ComfyUI "
            "with --cpu, or on a Mac with PYTORCH_ENABLE_MPS_FALLBACK=1 set."
        )
    if _raised_here(error):
        return None
    said = first_sentence(f"{type(error).__name__}: {printable(error)}")
    return SeedSelectError(
        f"SeedSelect: {where} failed in the model, in ComfyUI or in another node pack: {said} "
        "Check that a plain KSampler and VAE Decode work with what is connected, and that the "
        "prompts come from this checkpoint's own text encoder."
    )


def _raised_here(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    path = Path(trace.tb_frame.f_code.co_filename) if trace else PACK
    return path.resolve().is_relative_to(PACK)


def free() -> None:
    """Give back what nobody holds any more; call it when the error's own frames are gone."""
    gc.collect()
    comfy.model_management.soft_empty_cache()


def with_room(work: Callable[..., Any], *ways: tuple, where: str, remedy: str) -> Any:
    """``work(*arguments)`` for the first of ``ways`` that there is memory for.

    Before each way but the first all models leave the device, so that this is for where none is in
    use; the host loads them again.

    Args:
        ways: arguments, the last for the least memory.
        where: what is done, and ``remedy``: what the user can do, for the message.

    Raises:
        SeedSelectError: not even the last way fits, or `failure` says what went wrong.
    """
    for number, arguments in enumerate(ways):
        if number:
            comfy.model_management.unload_all_models()
            free()
        try:
            return work(*arguments)
        except Exception as error:
            if not out_of_memory(error):
                told = failure(error, where)
                if told is None:
                    raise
                raise told from quoted(error)
            logging.warning("SeedSelect: out of memory while %s", printable(where))
            told = SeedSelectError(f"SeedSelect: out of memory while {where}. {remedy}")
            cause = str(error)
    # Without the error itself, whose frames hold what was in the way.
    raise told from quoted(MemoryError(cause))
