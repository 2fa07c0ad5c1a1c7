"""Which ComfyUI this pack needs.

Asked before anything of the host or of the pack's nodes is imported, so that a host that is too
old gets one sentence and no traceback. Standard library only.
"""

import importlib
import re

# The same in pyproject.toml, [tool.comfy].
COMFYUI = "0.18.1"


def host_version() -> str | None:
    """What the running ComfyUI says its version is; None where it does not say."""
    try:
        return importlib.import_module("comfyui_version").__version__
    except (ImportError, AttributeError):  # older than 0.3.8
        return None


def refusal(found: str | None) -> str | None:
    """A sentence for the user where a host of version ``found`` is too old, else None.

    A version that is not made of numbers passes: forks name theirs as they like.
    """
    if found is not None and (not _numbers(found) or _numbers(found) >= _numbers(COMFYUI)):
        return None
    return (
        f"ComfyUI-SeedSelect needs ComfyUI {COMFYUI} or newer and found "
        f"{found or 'one that does not tell its version'}; its nodes are left out until ComfyUI is "
        "updated."
    )


def _numbers(version: str) -> tuple[int, ...]:
    """(0, 30, 0) of "0.30.0", of "v0.30.0" and of "0.30.0-rc1"."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(map(int, found[1].split("."))) if found else ()
