"""How much of a run is kept, and how much is made again: the levels, from fast to small."""

from dataclasses import dataclass

AUTOMATIC = "automatic"


@dataclass(frozen=True)
class Level:
    """One way to take a gradient.

    Attributes:
        name: as the user knows it.
        parts: what a call is made again in, beside the call as a whole: "", "prompts" (each prompt
            of guidance alone) or "blocks" (each repeated block of the model).
        away: whether what waits for its backward pass waits in main memory.
        keeps: whether the activations of whole calls are kept where there is room.
        time: of an iteration, relative to "whole calls", as a call is 4 passes there (forward,
            forward again, and a backward pass worth two). What moving to main memory costs
            depends on the machine, and is not counted.
    """

    name: str
    parts: str = ""
    away: bool = False
    keeps: bool = False
    time: float = 1.0


KEPT = Level("steps kept", keeps=True, time=0.75)
WHOLE = Level("whole calls")
PROMPTS = Level("prompts apart", parts="prompts", time=1.25)
BLOCKS = Level("by blocks", parts="blocks", time=1.25)
AWAY = Level("by blocks, in main memory", parts="blocks", away=True, time=1.25)
NONE = Level("no gradient")
LEVELS = (KEPT, WHOLE, PROMPTS, BLOCKS, AWAY, NONE)
