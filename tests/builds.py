"""Builds of PyTorch for other devices, played on the CPU: they refuse what those builds lack.

What a build lacks is taken from PyTorch's own list of kernels where it is one of PyTorch's, and
from the operations that its package registers and its tracker where it is not: docs/devices.md.
"""

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torchgen
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seedselect_core.host import devices
from seedselect_core.likeness import encoders, open_clip, views
from seedselect_core.references import ReferenceSet

MANY = (False, True)  # not fused, and many tensors at once
BORDER = 1  # `grid_sampler_2d` calls its padding modes by number

# Operations of our runs that torch-directml 0.2.5 does not register.
DIRECTML = frozenset(
    {
        "_foreach_add_",
        "_foreach_addcdiv_",
        "_foreach_addcmul_",
        "_foreach_lerp_",
        "_foreach_mul_",
        "_upsample_bicubic2d_aa",
        "_upsample_bicubic2d_aa_backward",
        "_upsample_bilinear2d_aa",
        "_upsample_bilinear2d_aa_backward",
        "grid_sampler_2d",
        "grid_sampler_2d_backward",
    }
)


@dataclass(frozen=True)
class Lacking:
    """What a build lacks.

    Attributes:
        device: its kind, as PyTorch calls it.
        operations: without overloads.
        border: whether `grid_sampler_2d` knows no padding by the border.
        double: whether it knows no float64.
        said: by the build where it is asked for such an operation.
    """

    device: str
    operations: frozenset[str] = frozenset()
    border: bool = False
    double: bool = True
    said: str = "The operator 'aten::{}' is not currently implemented for the {} device."


def without_kernel(device: str) -> frozenset[str]:
    """Operations for which this PyTorch names kernels of other devices, and none of ``device``."""
    listed = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    found: dict[str, set[str]] = {}
    for entry in yaml.safe_load(listed.read_text("utf-8")):
        name = entry["func"].split("(")[0].split(".")[0]
        kinds = {kind.strip() for key in entry.get("dispatch", {}) for kind in key.split(",")}
        found.setdefault(name, set()).update(kinds)
    return frozenset(
        name
        for name, kinds in found.items()
        if "CPU" in kinds and device not in kinds and not any("Composite" in k for k in kinds)
    )


# Steps that only the CPU takes within an operation that others do in one, or by other steps.
OF_THE_CPU = frozenset(
    {
        "_fused_sdp_choice",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
    }
)
# PyTorch puts these in from Python where it is built for MPS.
OF_PYTHON = frozenset({"native_group_norm", "native_group_norm_backward"})
MPS = without_kernel("MPS") - OF_THE_CPU - OF_PYTHON

BUILDS = {
    "MPS": Lacking("mps", MPS, border=True),
    "DirectML": Lacking("privateuseone", DIRECTML),
    "XPU": Lacking("xpu"),
    "ROCm": Lacking("cuda", double=False),
    # As microsoft/DirectML#678 tells; elsewhere it falls back to the CPU.
    "DirectML without group norm": Lacking(
        "privateuseone", DIRECTML | {"native_group_norm_backward"}
    ),
}


class _Crossing(torch.autograd.Function):
    """Marks where a computation leaves the device and comes back, in the backward pass too."""

    @staticmethod
    def forward(ctx, tensor, build, by):
        ctx.build = build
        ctx.by = by
        build.away += by
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, gradient):
        ctx.build.away -= ctx.by
        return gradient, None, None


@dataclass
class Build(TorchDispatchMode):
    """Refuses operations while it is entered.

    Attributes:
        seen: operations that ran on the device.
        elsewhere: those that ran on the CPU, since the build lacks them.
    """

    lacking: Lacking
    seen: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)
    away: int = 0

    def __post_init__(self):
        super().__init__()
        self._copied: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        if self.away:
            self.elsewhere.add(name)
            return function(*args, **kwargs)
        self.seen.add(name)
        self._require(name, args)
        result = function(*args, **kwargs)
        self._require_single(name, args, result)
        if name == "clone" and args[0].untyped_storage()._cdata in self._copied:
            self._copied.add(result.untyped_storage()._cdata)
        return result

    def _require(self, name: str, args: tuple) -> None:
        if name in self.lacking.operations:
            raise NotImplementedError(
                self.lacking.said.format(name, self.lacking.device.upper()) + " If you want this"
            )
        if self.lacking.border and name == "grid_sampler_2d" and args[3] == BORDER:
            raise RuntimeError("MPS: Unsupported Border padding mode")

    def _require_single(self, name: str, args: tuple, result) -> None:
        """Refuse float64 that is made of a tensor of the device; what `cpu` copied may be it."""
        if not self.lacking.double:
            return
        given = [x for x in tree_leaves(args) if isinstance(x, torch.Tensor) and x.ndim]
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        if any(x.dtype == torch.float64 for x in made):
            for x in given:
                copied = x.untyped_storage()._cdata in self._copied
                if x.is_floating_point() and x.dtype != torch.float64 and not copied:
                    raise TypeError(
                        f"Cannot convert a {self.lacking.device} tensor to float64 ({name})."
                    )

    def cpu(self, tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.clone()
        self._copied.add(copy.untyped_storage()._cdata)
        return copy


@contextmanager
def played(name: str, monkeypatch) -> Iterator[Build]:
    """The build ``name`` in the CPU's place: what is moved to the CPU is free of it."""
    build = Build(BUILDS[name])

    def moved(images: torch.Tensor, device: torch.device) -> torch.Tensor:
        # Into what is done elsewhere, or out of it.
        return _Crossing.apply(images, build, -1 if build.away else 1)

    def spared(function: Callable, images: torch.Tensor) -> torch.Tensor:
        before = build.away
        try:
            return where_complete(function, images)
        finally:  # a checkpoint may leave it early
            build.away = before

    def fitted(*arguments) -> torch.Tensor:
        build.away += 1  # reference pictures are on the CPU
        try:
            return fit(*arguments)
        finally:
            build.away -= 1

    where_complete = devices.where_complete
    fit = ReferenceSet.fit
    with monkeypatch.context() as patch:
        if build.lacking.device not in devices.COMPLETE:
            patch.setattr(devices, "COMPLETE", ())
        if build.lacking.device == "privateuseone":
            # As PyTorch chooses for it, unless it is told not to.
            for name in ("adam", "sgd"):
                module = importlib.import_module(f"torch.optim.{name}")
                patch.setattr(module, "_default_to_fused_or_foreach", lambda *_, **__: MANY)
        patch.setattr(devices, "moved", moved)
        patch.setattr(ReferenceSet, "fit", fitted)
        for module in (views, encoders, open_clip):
            patch.setattr(module, "where_complete", spared)
        patch.setattr(torch.Tensor, "cpu", functools.partialmethod(lambda x: build.cpu(x)))
        with build:
            yield build
