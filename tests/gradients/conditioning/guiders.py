"""Everything of the host that returns a GUIDER, and guiders of other makes."""

import asyncio
import importlib
from collections.abc import Callable
from pathlib import Path

import comfy.samplers
import comfy_extras.nodes_custom_sampler
import torch
from comfy_extras.nodes_apg import APG
from comfy_extras.nodes_custom_sampler import (
    BasicGuider,
    CFGGuider,
    DualCFGGuider,
    DualModelGuider,
)
from comfy_extras.nodes_perpneg import PerpNegGuider

from nodes import ConditioningZeroOut

from ..measure import Case, Finding, Wired, examine
from ..models import randomize
from ..small_unet import graph, small_unet, text


def guided(guider: Callable[[torch.dtype], comfy.samplers.CFGGuider], **more) -> Finding:
    """Measure a small graph whose GUIDER is what ``guider`` makes for a type of weights."""

    def build(dtype: torch.dtype) -> Wired:
        made = guider(dtype)
        wired = graph(dtype, model=made.model_patcher, **more)
        wired.guider = made
        return wired

    return examine(build)


def of_node(node, *inputs, **options) -> Callable[[torch.dtype], comfy.samplers.CFGGuider]:
    return lambda dtype: node.execute(small_unet(dtype), *inputs, **options)[0]


class Rescaled(comfy.samplers.CFGGuider):
    """As packs make them: conditionings of its own, and a guidance that it computes itself."""

    def set_conds(self, positive, negative, style):
        self.inner_set_conds({"positive": positive, "negative": negative, "style": style})

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        names = ("positive", "negative", "style")
        conds = [self.conds[name] for name in names]
        positive, negative, style = comfy.samplers.calc_cond_batch(
            self.inner_model, conds, x, timestep, model_options or {}
        )
        guided = negative + self.cfg * (positive - negative) + 0.5 * (style - negative)
        return guided * (positive.std() / guided.std())


class Momentum(comfy.samplers.CFGGuider):
    """Calls the model twice a step, the second time where the first points, and remembers."""

    def outer_sample(self, *args, **kwargs):
        self.velocity = None
        self.calls = 0
        return super().outer_sample(*args, **kwargs)

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        first = super().predict_noise(x, timestep, model_options, seed)
        second = super().predict_noise(x + 0.1 * (first - x), timestep, model_options, seed)
        self.calls += 1
        change = second - first
        if self.velocity is not None:
            change = change + 0.7 * self.velocity / self.calls
        self.velocity = change
        return first + change


class OverwritingMomentum(comfy.samplers.CFGGuider):
    """Keeps its running mean in one tensor that it overwrites."""

    def outer_sample(self, noise, *args, **kwargs):
        self.mean = torch.zeros_like(noise)
        return super().outer_sample(noise, *args, **kwargs)

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        prediction = super().predict_noise(x, timestep, model_options, seed)
        self.mean.mul_(0.5).add_(prediction)
        return prediction + 0.3 * self.mean


def rescaled(dtype: torch.dtype) -> comfy.samplers.CFGGuider:
    guider = Rescaled(small_unet(dtype))
    guider.set_conds(text(1), text(2), text(3))
    guider.set_cfg(3.0)
    return guider


def _own(kind: type) -> Callable[[torch.dtype], comfy.samplers.CFGGuider]:
    def make(dtype: torch.dtype):
        guider = kind(small_unet(dtype))
        guider.set_conds(text(1), text(2))
        guider.set_cfg(3.0)
        return guider

    return make


def dual_model(dtype: torch.dtype) -> comfy.samplers.CFGGuider:
    second = small_unet(dtype)
    randomize(second.model.diffusion_model, 5)
    return DualModelGuider.execute(small_unet(dtype), text(1), 3.0, second, text(2))[0]


def averaged(dtype: torch.dtype) -> comfy.samplers.CFGGuider:
    model = APG.execute(small_unet(dtype), eta=0.5, norm_threshold=5.0, momentum=0.6)[0]
    return CFGGuider.execute(model, text(1), text(2), 3.0)[0]


def zeroed(conditioning: list) -> list:
    return ConditioningZeroOut().zero_out(conditioning)[0]


def guider_nodes() -> set[str]:
    """Ids of the host's nodes that return a GUIDER, by the text of their files."""
    found = set()
    for file in Path(comfy_extras.nodes_custom_sampler.__file__).parent.glob("nodes_*.py"):
        if "Guider.Output" not in file.read_text(encoding="utf-8"):
            continue
        module = importlib.import_module(f"comfy_extras.{file.stem}")
        nodes = asyncio.run(_nodes(module))
        schemas = [node.define_schema() for node in nodes]
        found |= {
            schema.node_id
            for schema in schemas
            if any(output.io_type == "GUIDER" for output in schema.outputs)
        }
    return found


async def _nodes(module) -> list:
    extension = await module.comfy_entrypoint()
    return await extension.get_node_list()


def cases() -> list[Case]:
    p = text(1)
    n = text(2)
    e = text(3)
    rows: dict[str, Callable] = {
        "BasicGuider": of_node(BasicGuider, p),
        "CFGGuider": of_node(CFGGuider, p, n, 7.0),
        "CFGGuider, cfg 1": of_node(CFGGuider, p, n, 1.0),
        "CFGGuider, cfg 0": of_node(CFGGuider, p, n, 0.0),
        "CFGGuider, empty negative (ConditioningZeroOut)": of_node(CFGGuider, p, zeroed(n), 3.0),
        "DualCFGGuider, regular": of_node(DualCFGGuider, p, e, n, 4.0, 2.0, "regular"),
        "DualCFGGuider, nested": of_node(DualCFGGuider, p, e, n, 4.0, 2.0, "nested"),
        "DualModelGuider": dual_model,
        "PerpNegGuider": of_node(PerpNegGuider, p, n, e, 4.0, 1.0),
        "PerpNegGuider, neg_scale 0, cfg 1": of_node(PerpNegGuider, p, n, e, 1.0, 0.0),
        "APG with momentum": averaged,
        "third-party guider, own set_conds and predict_noise": rescaled,
        "third-party guider, two calls a step and momentum": _own(Momentum),
        "third-party guider, running mean overwritten in place": _own(OverwritingMomentum),
    }
    quick = {"BasicGuider", "DualCFGGuider, nested", "PerpNegGuider", "APG with momentum"}
    return [
        Case("conditioning", name, lambda make=make: guided(make), name in quick)
        for name, make in rows.items()
    ]
