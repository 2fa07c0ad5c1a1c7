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


# Names of classes in `comfy.supported_models` that are made both with guidance and distilled to do
# without; the config does not tell which. The distilled one, and what it takes.
MAYBE_DISTILLED = {
    "Flux2": "If this is the distilled FLUX.2 klein, set cfg to 1 and steps to 4.",
    "ZImage": "If this is Z-Image Turbo, set cfg to 1 and steps to 9.",
}


def advice(model, cfg: float) -> str:
    """What to set instead where ``model`` (a ModelPatcher) is not made for so much guidance, or "".

    What was distilled to need no guidance draws burnt pictures with it, at twice the cost. LoRAs
    that distil (Lightning, Turbo) leave no trace in a model's config, and are not noticed.
    """
    if cfg <= 2:
        return ""
    config = model.model.model_config
    family = type(config).__name__
    sampling = type(model.get_model_object("model_sampling"))
    said = f"cfg {cfg:g} is too much for this model."
    if any(kind.__name__ in ("LCM", "ModelSamplingDiscreteDistilled") for kind in sampling.__mro__):
        return f"{said} LCM takes cfg 1 to 2, 4 to 8 steps and sampler lcm."
    if config.unet_config.get("guidance_embed"):
        return f"{said} Guidance is built into {family}: set cfg to 1, and use 'FluxGuidance'."
    if family == "FluxSchnell":
        return f"{said} FLUX schnell takes cfg 1, 4 steps, sampler euler and scheduler simple."
    return MAYBE_DISTILLED.get(family, "")
