"""Models of the host that no seed can be optimized for, and why."""

from ..errors import SeedSelectError

_PICTURES = "Connect a model that makes images or videos."
_SOUND = f"It makes sound, and reference images can only be compared with pictures. {_PICTURES}"
_SHAPE = f"It makes 3D shapes, and reference images can only be compared with pictures. {_PICTURES}"
_FINDING = f"It finds things in a picture and does not make one. {_PICTURES}"

# Name of the class in `comfy.supported_models`, and a sentence for the user.
REFUSED: dict[str, str] = {
    "StableAudio": _SOUND,
    "StableAudio3": _SOUND,
    "ACEStep": _SOUND,
    "ACEStep15": _SOUND,
    "MiniMaxH3": (
        "It makes a video and its sound from one noise, and a seed holds the noise of a picture or "
        f"a video alone. {_PICTURES}"
    ),
    "Hunyuan3Dv2": _SHAPE,
    "Hunyuan3Dv2_1": _SHAPE,
    "Hunyuan3Dv2mini": _SHAPE,
    "TripoSplat": _SHAPE,
    "RT_DETR_v4": _FINDING,
    "SAM3": _FINDING,
    "SAM31": _FINDING,
    "DepthAnything3": _FINDING,
    "WAN21_FlowRVS": (
        "It starts from the video that it is given and not from noise, so that every seed gives "
        "the same. Connect a model that starts from noise."
    ),
}


def require_family(model) -> None:
    """Raise `SeedSelectError` where ``model`` (a ModelPatcher) is of a family that is refused."""
    family = type(model.model.model_config).__name__
    if family in REFUSED:
        raise SeedSelectError(f"model: {family} cannot be optimized. {REFUSED[family]}")
