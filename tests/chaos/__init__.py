"""A node pack that breaks what runs beside it, and looks what that left behind. For tests only.

Chaos Arm passes MODEL, VAE and CLIP_VISION on, and lets one of their layers fail at its n-th call.
Chaos Value gives a hostile value to any input. Chaos Fresh passes a value on and makes all after it
run again; it ends whatever was armed. Chaos Witness tells what is left: hashes of a picture and of
all weights, files that were opened outside, memory, descriptors, files.
"""

import hashlib
import json
import math
import os

import folder_paths
import torch
from chaos_watch import WATCH

ANY = "*"
HERE = os.path.dirname(os.path.realpath(__file__))


def watch_from_now() -> None:
    """Note what is opened outside the host's folders and those of the packs."""
    host = os.path.dirname(os.path.realpath(folder_paths.__file__))
    packs = folder_paths.get_folder_paths("custom_nodes")
    linked = [os.path.join(place, name) for place in packs for name in os.listdir(place)]
    folders = [folder_paths.get_directory_by_type(kind) for kind in ("input", "output", "temp")]
    folders.append(folder_paths.get_user_directory())
    WATCH.allow([host, folder_paths.base_path, HERE, *linked], folders)
    WATCH.on = True


class Trap:
    """Lets the n-th call of a layer fail.

    Attributes:
        armed: the hooks, until they are taken out.
        calls: of layers, so far.
    """

    def __init__(self) -> None:
        self.armed: list = []
        self.calls = 0

    def arm(self, part: torch.nn.Module, fault: dict) -> None:
        """Hooks on every layer of ``part``; ``fault`` is that of `ChaosArm`."""
        self.disarm()
        for layer in part.modules():
            if not any(layer.children()):
                self.armed.append(layer.register_forward_hook(self._hook(fault)))

    def disarm(self) -> None:
        for hook in self.armed:
            hook.remove()
        self.armed = []
        self.calls = 0
        WATCH.full = ()

    def _hook(self, fault: dict):
        def called(layer, arguments, output):
            self.calls += 1
            due = self.calls == fault["call"] or (fault["lasting"] and self.calls > fault["call"])
            if not due:
                return None
            if fault["kind"] == "nan":
                return _spoiled(output)
            raise ERRORS[fault["kind"]]()

        return called


def _spoiled(output):
    if not isinstance(output, torch.Tensor) or not output.is_floating_point():
        return None
    spoiled = output.clone()
    spoiled[(0,) * spoiled.ndim] = math.nan
    return spoiled


ERRORS = {
    "error": lambda: RuntimeError("chaos: a layer failed"),
    "oom": lambda: torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate (chaos)"),
    "cpu oom": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: not enough memory: you tried "
        "to allocate 68719476736 bytes (chaos)"
    ),
    "memory": lambda: MemoryError("chaos"),
}
TRAP = Trap()


class ChaosArm:
    """``fault``, as JSON: part, call, kind (a key of `ERRORS`, "nan" or ""), lasting, full."""

    RETURN_TYPES = ("MODEL", "VAE", "CLIP_VISION")
    FUNCTION = "arm"
    CATEGORY = "chaos"

    @classmethod
    def INPUT_TYPES(cls):
        given = {"model": ("MODEL",), "vae": ("VAE",), "clip_vision": ("CLIP_VISION",)}
        return {"required": given | {"fault": ("STRING", {"default": "{}"})}}

    @classmethod
    def IS_CHANGED(cls, **given):
        return float("nan")  # another one each time: the host takes the same one for equal

    def arm(self, model, vae, clip_vision, fault):
        TRAP.disarm()
        wanted = json.loads(fault)
        if wanted["kind"]:
            parts = {"model": model.model.diffusion_model, "vae": vae.first_stage_model}
            parts["encoder"] = clip_vision.model
            TRAP.arm(parts[wanted["part"]], wanted)
        if wanted["full"]:
            WATCH.full = (os.path.realpath(folder_paths.get_output_directory()),)
        return (model, vae, clip_vision)


class ChaosFresh:
    RETURN_TYPES = (ANY,)
    FUNCTION = "renew"
    CATEGORY = "chaos"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": (ANY, {})}}

    @classmethod
    def IS_CHANGED(cls, **given):
        return float("nan")  # another one each time: the host takes the same one for equal

    def renew(self, value):
        TRAP.disarm()
        return (value,)


def _image(*shape: int, value: float = 0.5, dtype=torch.float32) -> torch.Tensor:
    return torch.full(shape, value, dtype=dtype)


def _latent(*shape: int, **more) -> dict:
    return {"samples": torch.zeros(shape), **more}


VALUES = {
    "image of no picture": lambda: _image(0, 64, 64, 3),
    "image of no height": lambda: _image(1, 0, 64, 3),
    "image of no width": lambda: _image(1, 64, 0, 3),
    "image of no channel": lambda: _image(1, 64, 64, 0),
    "image of one pixel": lambda: _image(1, 1, 1, 3),
    "image of one column": lambda: _image(1, 500, 1, 3),
    "grey image": lambda: _image(2, 64, 64, 1),
    "image of two channels": lambda: _image(2, 64, 64, 2),
    "cut-out image": lambda: _image(2, 64, 64, 4),
    "image of five channels": lambda: _image(2, 64, 64, 5),
    "half image": lambda: _image(2, 64, 64, 3, dtype=torch.float16),
    "bfloat16 image": lambda: _image(2, 64, 64, 3, dtype=torch.bfloat16),
    "double image": lambda: _image(2, 64, 64, 3, dtype=torch.float64),
    "byte image": lambda: _image(2, 64, 64, 3, value=200, dtype=torch.uint8),
    "nan image": lambda: _image(2, 64, 64, 3, value=math.nan),
    "infinite image": lambda: _image(2, 64, 64, 3, value=math.inf),
    "image out of range": lambda: _image(2, 64, 64, 3, value=-7.0),
    "image of three dimensions": lambda: _image(64, 64, 3),
    "image of five dimensions": lambda: _image(1, 2, 64, 64, 3),
    "odd image": lambda: _image(1, 61, 67, 3),
    "latent of nothing": lambda: _latent(0, 4, 8, 8),
    "latent of no height": lambda: _latent(1, 4, 0, 8),
    "latent of one value": lambda: _latent(1, 4, 1, 1),
    "latent of two channels": lambda: _latent(1, 2, 8, 8),
    "latent of a video": lambda: _latent(1, 4, 3, 8, 8),
    "latent of three dimensions": lambda: _latent(4, 8, 8),
    "nan latent": lambda: {"samples": torch.full((1, 4, 8, 8), math.nan)},
    "half latent": lambda: {"samples": torch.zeros(1, 4, 8, 8, dtype=torch.float16)},
    "latent without samples": lambda: {},
    "latent with a nan mask": lambda: _latent(
        1, 4, 8, 8, noise_mask=_image(1, 64, 64, value=math.nan)
    ),
    "latent with an empty mask": lambda: _latent(1, 4, 8, 8, noise_mask=torch.zeros(0, 64, 64)),
    "latent with indices": lambda: _latent(2, 4, 8, 8, batch_index=[5, 7]),
    "no condition": lambda: [],
    "nan condition": lambda: [[torch.full((1, 16, 128), math.nan), {}]],
    "condition of no token": lambda: [[torch.zeros(1, 0, 128), {}]],
    "wide condition": lambda: [[torch.zeros(1, 16, 96), {}]],
    "no step": lambda: torch.zeros(0),
    "one sigma": lambda: torch.zeros(1),
    "nan sigmas": lambda: torch.tensor([14.6, math.nan, 0.0]),
    "infinite sigmas": lambda: torch.tensor([math.inf, 1.0, 0.0]),
    "rising sigmas": lambda: torch.tensor([0.0, 1.0, 14.6]),
    "sigmas of two dimensions": lambda: torch.zeros(2, 2),
    "nothing": lambda: None,
    "number": lambda: 5,
    "text": lambda: "\ud800\x1b[2J",
    "list": lambda: [],
    "dict": lambda: {},
}


class ChaosValue:
    RETURN_TYPES = (ANY,)
    FUNCTION = "give"
    CATEGORY = "chaos"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": (list(VALUES), {})}}

    def give(self, value):
        return (VALUES[value](),)


class ChaosList:
    """Pictures one by one, over which the host maps the nodes after it."""

    RETURN_TYPES = ("IMAGE",)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "give"
    CATEGORY = "chaos"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def give(self, image):
        return (list(image.split(1)),)


class ChaosWitness:
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "look"
    CATEGORY = "chaos"

    @classmethod
    def INPUT_TYPES(cls):
        parts = {"model": ("MODEL",), "clip": ("CLIP",), "vae": ("VAE",)}
        return {
            "required": {"image": ("IMAGE",)},
            "optional": parts | {"clip_vision": ("CLIP_VISION",)},
        }

    @classmethod
    def IS_CHANGED(cls, **given):
        return float("nan")  # another one each time: the host takes the same one for equal

    def look(self, image, model=None, clip=None, vae=None, clip_vision=None):
        seen = {"picture": _digest([image]), "outside": WATCH.take()} | _resources()
        if model is not None:
            modules = (model.model, clip.cond_stage_model, vae.first_stage_model, clip_vision.model)
            seen["weights"] = _digest(t for m in modules for t in m.state_dict().values())
        if not WATCH.on:
            watch_from_now()
        return {"ui": {"text": [json.dumps(seen)]}}


def _digest(tensors) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _resources() -> dict:
    """Resident memory in MiB, open descriptors, and files in the host's own folders."""
    seen = {"temp folder": folder_paths.get_temp_directory()}
    for kind in ("temp", "output"):
        folder = folder_paths.get_directory_by_type(kind)
        seen[f"{kind} files"] = sum(len(names) for _, _, names in os.walk(folder))
    if os.path.isdir("/proc/self/fd"):
        seen["descriptors"] = len(os.listdir("/proc/self/fd"))
        with open("/proc/self/statm", encoding="ascii") as file:
            seen["memory"] = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return seen


ALL = (ChaosArm, ChaosFresh, ChaosList, ChaosValue, ChaosWitness)
NODE_CLASS_MAPPINGS = {node.__name__: node for node in ALL}
