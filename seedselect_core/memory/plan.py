"""What a run does when the device is full: less is kept, more is made again, and it goes on.

Levels, each slower and smaller than the one before:

1. whole calls: a model call is recomputed as a whole, and the pictures of a batch are decoded
   together;
2. by blocks: a call is recomputed block by block (`seedselect_core.memory.blocks`), and pictures
   are decoded one by one.
"""

import gc

import comfy.model_management


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is the device's, or the system's, that there is no memory left."""
    return isinstance(error, MemoryError) or comfy.model_management.is_oom(error)


def free() -> None:
    """Give back what nobody holds any more; call it when the error's own frames are gone."""
    gc.collect()
    comfy.model_management.soft_empty_cache()
