"""What nobody has proven: it is found, checked before time is spent, and refused only if wrong."""

import functools
import re
import sys
import types
from dataclasses import replace

import comfy.ldm.modules.attention
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP

import tiny
from seedselect_core.chain import doubts as module
from seedselect_core.chain.doubts import NEEDS, Proven, doubts
from seedselect_core.chain.parts import foreign_attention, origin, parts_of
from seedselect_core.chain.sampling import sample_from_seed
from seedselect_core.chain.unroll import Denoising
from seedselect_core.errors import SeedSelectError
from seedselect_core.host import samplers
from seedselect_core.host.needs import Need, unbound
from seedselect_core.host.samplers import sampler_name, sampler_of
from seedselect_core.pocket import load_pocket_model
from seedselect_core.seeds.seed import Seed

SIGMAS = torch.tensor([14.0, 5.0, 1.5, 0.0])


def denoising_of(model, sampler="euler", **conds) -> Denoising:
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(
        conds.get("positive", tiny.conditioning(1)), conds.get("negative", tiny.conditioning(2))
    )
    guider.set_cfg(3.0)
    return Denoising(guider, comfy.samplers.sampler_object(sampler), SIGMAS)


@pytest.fixture
def host_is_proven(monkeypatch):
    monkeypatch.setattr(module, "proven_hosts", lambda: {module.HOST_VERSION})


@pytest.fixture(scope="module")
def pocket():
    with torch.inference_mode():
        return load_pocket_model()[0]


def test_the_table_names_the_parts_of_what_is_exact():
    proven = Proven.read()
    assert ("samplers", "euler") in proven.names and ("families", "SD15") in proven.names
    assert "comfy.samplers.CFGGuider" in proven.parts
    assert not [part for part in proven.parts if part.startswith(("gradients.", "test"))]


def test_nothing_of_the_pocket_graph_is_doubted(pocket, host_is_proven):
    assert doubts(denoising_of(pocket, "ddim")) == []


# --- parts of a graph -----------------------------------------------------------------------------


def wrapper(executor, *args, **kwargs):
    return executor(*args, **kwargs)


class Patch:
    def __call__(self, q, k, v, options):
        return q, k, v

    def method(self, args):
        return args["denoised"]


def shifted(self, *args, **kwargs):
    return self._forward(*args, **kwargs)


def with_wrapper(model):
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "mine", wrapper)


def with_post_cfg(model):
    model.set_model_sampler_post_cfg_function(Patch().method)


def with_patch(model):
    model.set_model_attn1_patch(Patch())


def with_partial(model):
    model.set_model_unet_function_wrapper(functools.partial(wrapper, 1))


def with_object_patch(model):
    model.add_object_patch("model_sampling", Patch())


def with_option(model):
    model.model_options["transformer_options"]["mine"] = True


def with_replaced_forward(model):
    model.model.diffusion_model.forward = types.MethodType(shifted, model.model.diffusion_model)


@pytest.mark.parametrize(
    ("put", "part"),
    [
        (with_wrapper, f"{__name__}.wrapper"),
        (with_post_cfg, f"{__name__}.Patch.method"),
        (with_patch, f"{__name__}.Patch"),
        (with_partial, f"{__name__}.wrapper"),
        (with_object_patch, f"{__name__}.Patch"),
        (with_option, "option mine"),
        (with_replaced_forward, f"{__name__}.shifted"),
    ],
)
def test_what_no_row_covers_is_doubted(put, part, host_is_proven):
    model = tiny.model()
    before = parts_of(denoising_of(model).guider)
    put(model)
    guider = denoising_of(model).guider
    assert parts_of(guider) - before - {"option model_function_wrapper"} >= {part}
    assert f"'{part}' in the graph" in doubts(denoising_of(model))


def test_a_guider_and_its_replaced_method_are_parts():
    class Mine(comfy.samplers.CFGGuider):
        pass

    Mine.predict_noise = tiny.run_node  # a function of another module
    found = parts_of(Mine(tiny.model()))
    assert {origin(Mine), "tiny.run_node"} <= found


def test_the_pack_is_itself_wherever_it_is_installed():
    known = type("PocketLatent", (), {"__module__": "seedselect_core.pocket"})
    inside = type("PocketLatent", (), {"__module__": "custom_nodes.pack.seedselect_core.pocket"})
    assert origin(known) == origin(inside) == "seedselect_core.pocket.PocketLatent"


# --- behind the host's back -----------------------------------------------------------------------


ATTENTION = comfy.ldm.modules.attention.attention_pytorch


def hidden_attention(q, k, v, *args, **kwargs):
    with torch.no_grad():
        return ATTENTION(q, k, v, *args, **kwargs)


def attentive_model():
    """MODEL whose attention tells places apart, and counts for much in what it predicts."""
    model = tiny.model()
    with torch.inference_mode():
        for name, weight in model.model.diffusion_model.named_parameters():
            if name.endswith(("to_q.weight", "to_out.0.weight")):
                weight.mul_(20)
    return model


def test_attention_of_the_host_and_of_pytorch_is_not_foreign():
    assert foreign_attention() == set()


@pytest.mark.parametrize("place", ["torch", "host", "a model's module"])
def test_replaced_attention_is_found(place, monkeypatch):
    if place == "torch":
        owner = torch.nn.functional
        name = "scaled_dot_product_attention"
    elif place == "host":
        owner = comfy.ldm.modules.attention
        name = "optimized_attention"
    else:
        owner = types.ModuleType("comfy.ldm.invented")
        owner.optimized_attention_masked = None
        monkeypatch.setitem(sys.modules, owner.__name__, owner)
        name = "optimized_attention_masked"
    monkeypatch.setattr(owner, name, hidden_attention)
    assert foreign_attention() == {f"{__name__}.hidden_attention"}


@pytest.mark.doubts
def test_a_search_through_replaced_attention_goes_on_without_a_gradient(monkeypatch):
    tiny.optimize(tiny.Graph(model=attentive_model()))
    for name in ("optimized_attention", "optimized_attention_masked"):
        monkeypatch.setattr(comfy.ldm.modules.attention, name, hidden_attention)
    notes = []
    tiny.optimize(tiny.Graph(model=attentive_model()), on_note=notes.append)
    assert re.search(r"attention replaced by .*hidden_attention.* wrong.*without a", notes[-1])


def test_names_without_a_function_do_no_harm(monkeypatch):
    monkeypatch.setattr(
        comfy.samplers, "SAMPLER_NAMES", ["of_another_pack", *comfy.samplers.SAMPLER_NAMES]
    )
    assert sampler_name(comfy.samplers.sampler_object("heun")) == "heun"
    told = r"^sampler: 'of_another_pack' is on ComfyUI's list"
    with pytest.raises(SeedSelectError, match=told):
        sampler_of("of_another_pack")
    sampling = replace(tiny.SAMPLING, sampler_name="of_another_pack")
    with pytest.raises(SeedSelectError, match=told):
        tiny.optimize(tiny.Graph(), sampling)
    graph = tiny.Graph()
    seed = Seed(tiny.normal(1, 4, 8, 8), sampling)
    with pytest.raises(SeedSelectError, match=told):
        sample_from_seed(graph.model, graph.positive, graph.negative, seed)


# --- what hides from autograd ---------------------------------------------------------------------


def hidden_wrapper(apply, given):
    with torch.no_grad():
        return apply(given["input"], given["timestep"], **given["c"])


def hidden_post_cfg(args):
    with torch.inference_mode():
        return args["denoised"] * 1.0


class HiddenScaling(torch.nn.Module):
    """In the place of the model's sampling: its prediction is detached."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str):
        if name == "inner":
            return super().__getattr__(name)
        return getattr(self.inner, name)

    def calculate_denoised(self, sigma, output, x):
        return self.inner.calculate_denoised(sigma, output, x).detach()


def hide_by_wrapper(model):
    model.set_model_unet_function_wrapper(hidden_wrapper)


def hide_by_post_cfg(model):
    model.set_model_sampler_post_cfg_function(hidden_post_cfg)


def hide_by_object_patch(model):
    inner = model.get_model_object("model_sampling")
    model.add_object_patch("model_sampling", HiddenScaling(inner))


HIDING = {
    "hidden_wrapper": hide_by_wrapper,
    "hidden_post_cfg": hide_by_post_cfg,
    "HiddenScaling": hide_by_object_patch,
}


@pytest.mark.doubts
@pytest.mark.parametrize("name", HIDING)
def test_what_hides_its_computation_is_named(name):
    model = tiny.model()
    HIDING[name](model)
    notes = []
    seed, _, history = tiny.optimize(tiny.Graph(model=model), on_note=notes.append)
    assert any("Nobody has tried" in note and name in note for note in notes)
    assert re.search(rf"gradient through .*{name}.* is wrong.*without a gradient", notes[-1])
    assert len(history.total) > 2 and seed.semantic[0] <= seed.first_semantic[0]


def partly_hidden_wrapper(apply, given):
    output = apply(given["input"], given["timestep"], **given["c"])
    return 0.7 * output + 0.3 * output.detach()


@pytest.mark.doubts
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_check_tells_rounding_from_a_path_that_is_hidden(dtype):
    sampling = replace(tiny.SAMPLING, steps=8, cfg=7.0)
    settings = tiny.settings(iterations=1)
    model = tiny.model(dtype=dtype)
    tiny.optimize(tiny.Graph(model=model), sampling, settings)
    model.set_model_unet_function_wrapper(partly_hidden_wrapper)
    notes = []
    tiny.optimize(tiny.Graph(model=model), sampling, settings, on_note=notes.append)
    assert re.search(r"gradient through .*partly_hidden_wrapper.* is wrong", notes[-1])


@pytest.mark.doubts
def test_what_hides_nothing_is_searched_through():
    model = tiny.model()
    model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 1.0)
    settled = set()
    seed, *_ = tiny.optimize(tiny.Graph(model=model), on_settled=settled)
    assert seed.semantic and len(settled) == 1


def test_a_gradient_of_the_norm_prior_alone_is_none(monkeypatch):
    graph = tiny.Graph()
    notes = []
    real = graph.vae.first_stage_model.decode
    monkeypatch.setattr(graph.vae.first_stage_model, "decode", lambda z: real(z).detach())
    _, _, history = tiny.optimize(graph, on_note=notes.append)
    assert re.search(r"picture's gradient is zero.*VAE.*without a gradient", notes[-1])
    assert len(history.total) == 2 * 4


# --- the host -------------------------------------------------------------------------------------


def test_every_need_binds_on_this_host():
    assert unbound(NEEDS, "comfy.ldm.lightricks.model") == []


@pytest.mark.parametrize(
    ("need", "problem"),
    [
        (Need("comfy.utils:no_such_name"), "is missing"),
        (Need("comfy.no_such_module:name"), "is missing"),
        (Need("comfy.utils:bislerp", ("samples", "angle")), "does not take angle"),
        (Need("comfy.utils:bislerp", cell="func"), "holds no 'func'"),
    ],
)
def test_a_need_that_does_not_bind_says_why(need, problem):
    assert unbound([need], "comfy.ldm.flux.model") == [f"{need.place} {problem}"]


def test_a_need_of_one_family_is_none_of_the_others():
    need = Need("comfy.utils:no_such_name", family="comfy.ldm.lightricks")
    assert unbound([need], "comfy.ldm.flux.model") == []
    assert unbound([need], "comfy.ldm.lightricksy.model") == []
    assert len(unbound([need], "comfy.ldm.lightricks.av_model")) == 1


@pytest.mark.doubts
def test_an_unproven_host_and_a_liberty_that_does_not_bind_are_checked_and_told(
    pocket, monkeypatch
):
    monkeypatch.setattr(module, "HOST_VERSION", "99.0.0")
    monkeypatch.delattr(samplers.comfy.k_diffusion.sampling, "PIDStepSizeController")
    found = doubts(denoising_of(pocket))
    assert found == [
        "ComfyUI 99.0.0",
        "comfy.k_diffusion.sampling:PIDStepSizeController.propose_step is missing",
    ]
    notes = []
    tiny.optimize(tiny.Graph(), on_note=notes.append)
    (note,) = (note for note in notes if "Nobody has tried" in note)
    assert "ComfyUI 99.0.0" in note and "PIDStepSizeController" in note
