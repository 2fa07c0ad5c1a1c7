"""The socket types of this pack, and whether an input got what its socket is for."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from comfy_api.latest import io

from ..seedselect_core.errors import SeedSelectError
from ..seedselect_core.likeness.open_clip import OpenClipEncoder
from ..seedselect_core.seeds.seed import Seed
from ..seedselect_core.text import printable

ReferenceSetType = io.Custom("REFERENCE_SET")
SeedType = io.Custom("SEEDSELECT_SEED")
EncoderType = io.Custom("IMAGE_ENCODER")


def _of(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


def _with(*names: str) -> Callable[[Any], bool]:
    return lambda value: all(hasattr(value, name) for name in names)


_is_tensor = _of(torch.Tensor)


def _is_condition(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 1 and isinstance(value[1], dict)


# By what is used of it, since other packs have classes of their own for the host's types. Pictures
# and masks are checked where they are read.
_IS = {
    "MODEL": _with("model", "model_options"),
    "CONDITIONING": lambda value: isinstance(value, list) and all(map(_is_condition, value)),
    "LATENT": lambda value: isinstance(value, dict) and hasattr(value.get("samples"), "shape"),
    "VAE": _with("decode"),
    "CLIP_VISION": _with("encode_image", "patcher"),
    "NOISE": _with("generate_noise", "seed"),
    "GUIDER": _with("model_patcher", "sample"),
    "SAMPLER": _with("sample"),
    "SIGMAS": _is_tensor,
    ReferenceSetType.io_type: _with("fitted", "preview"),
    SeedType.io_type: _of(Seed),
    EncoderType.io_type: _of(OpenClipEncoder),
}
_REMEDIES = {
    SeedType.io_type: (
        "Connect the found noise of 'SeedSelect Optimize', the seed of 'Load Seed' or of another "
        "node of SeedSelect."
    ),
    ReferenceSetType.io_type: "Connect 'Load Reference Set'.",
}


def inputs_checked(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """A node's ``execute`` that refuses, in words, what a socket is not for.

    The host lets an API prompt have any value in the place of a link, a link from an output of any
    type, and links to inputs that there are none of. A choice (`io.DynamicCombo`) comes as a dict
    with the inputs that it brings along; ``execute`` gets them beside it.
    """

    @functools.wraps(execute)
    def checked(cls, **values) -> io.NodeOutput:
        schema = cls.SCHEMA or cls.define_schema()
        return execute(cls, **_taken(schema.inputs, values, schema.is_input_list))

    return checked


def _taken(inputs: list[io.Input], values: dict, lists: bool) -> dict:
    """What came for these inputs and for those that their choices bring along."""
    taken = {}
    for socket in inputs:
        given = values.get(socket.id)
        if isinstance(socket, io.DynamicCombo.Input):
            taken |= _chosen(socket, given, lists)
            continue
        if given is not None or not socket.optional:
            for value in given if lists and given is not None else [given]:
                _require(socket.id, socket.get_io_type(), value)
        if socket.id in values:
            taken[socket.id] = given
    return taken


def _chosen(socket: io.DynamicCombo.Input, given: Any, lists: bool) -> dict:
    """A choice, and what came for the inputs of the option that it names."""
    options = {option.key: option.inputs for option in socket.options}
    choice = given.get(socket.id) if isinstance(given, dict) else None
    key = choice[0] if lists and isinstance(choice, list) and len(choice) == 1 else choice
    # The host hands nothing over where a prompt names no option.
    if not isinstance(key, str) or key not in options:
        raise SeedSelectError(f"{socket.id}: must be one of {', '.join(options)}.")
    return {socket.id: choice} | _taken(options[key], given, lists)


def _require(name: str, kinds: str, value: Any) -> None:
    tests = [_IS[kind] for kind in kinds.split(",") if kind in _IS]
    if not tests or any(test(value) for test in tests):
        return
    wanted = kinds.replace(",", " or ")
    remedy = next((_REMEDIES[kind] for kind in kinds.split(",") if kind in _REMEDIES), None)
    raise SeedSelectError(
        f"{name}: expected {wanted}, got {printable(type(value).__name__)}. "
        f"{remedy or f'Connect a node that puts out {wanted}.'}"
    )
