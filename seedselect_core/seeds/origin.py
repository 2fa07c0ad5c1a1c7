"""What a seed was found with, as a file tells it, so that somebody else learns what differs.

Names and fingerprints only: nothing is loaded by them, and a difference is no error.
"""

from dataclasses import dataclass, fields

from .schema import require_fields

WORDS = {
    "model": "model",
    "loras": "LoRAs",
    "encoder": "image encoder",
    "prompt": "prompt",
    "references": "references",
}


@dataclass(frozen=True)
class Origin:
    """Where a seed comes from; what is not known is empty.

    Attributes:
        model: file of the diffusion model.
        loras: files of its LoRAs, in order.
        encoder: file of the image encoder that judged likeness.
        prompt: SHA-256 of the prompts' texts, in hexadecimal digits.
        references: `ReferenceSet.fingerprint` of the pictures that were searched for.
    """

    model: str = ""
    loras: tuple[str, ...] = ()
    encoder: str = ""
    prompt: str = ""
    references: str = ""

    def __post_init__(self):
        require_fields(vars(self))

    def or_else(self, other: "Origin") -> "Origin":
        """This, with what is not known taken from ``other``."""
        return Origin(*(getattr(self, f.name) or getattr(other, f.name) for f in fields(self)))

    def differences(self, here: "Origin") -> list[str]:
        """What is not ``here`` as it was, a sentence for each; only what both know is compared.

        Where a graph was looked into, no LoRAs is knowledge too.
        """
        looked = (self.model or self.prompt) and (here.model or here.prompt)
        told = []
        for name, word in WORDS.items():
            then = getattr(self, name)
            now = getattr(here, name)
            known = looked if name == "loras" else then and now
            if not known or then == now:
                continue
            if name in ("prompt", "references"):
                told.append(f"The {word} differ{'s' * (name == 'prompt')}.")
            else:
                told.append(f"{word}: {_named(then)} then, {_named(now)} here.")
        return told


def _named(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else ", ".join(value) or "none"
