"""Whole searches where PyTorch's build for the device lacks operations (docs/devices.md)."""

import functools
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny
from builds import BUILDS, Build, played, without_kernel
from seedselect_core.chain.inversion import Refinement, invert_images
from seedselect_core.chain.refusals import refusal
from seedselect_core.chain.sampling import sample_from_seed
from seedselect_core.errors import SeedSelectError
from seedselect_core.host import devices
from seedselect_core.memory.levels import LEVELS, NONE
from seedselect_core.search.presets import PRESETS
from seedselect_core.seeds.geometry import shell_centroid, shell_path, spherical_path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "devices.md"
WITH_GRADIENT = ("MPS", "DirectML", "XPU", "ROCm")
TURNED = {"views": 3}

# Every part of a search is in one of them; presets are shortened.
SEARCHES = {
    **{
        name: replace(settings, iterations=2, candidates=min(2, settings.candidates))
        for name, settings in PRESETS.items()
    },
    **{level.name: tiny.settings(memory=level.name, **TURNED) for level in LEVELS},
    "sgd on the sphere": tiny.settings(optimizer="sgd", shell="sphere", clip_norm=1.0, **TURNED),
    "neighbors": tiny.settings(iterations=1, neighbors=2, shell="channels", patience=1),
    "drafts": tiny.settings(iterations=1, candidates=3, draft_steps=1),
    "appearance": tiny.settings(appearance_weight=1.0, step_weights=(0.5, 0.5), target=0.1),
    "contrast": tiny.settings().reweighted(contrast=1.0),
}


def run(name: str, **more):
    settings = SEARCHES[name]
    if name == "contrast":
        more["contrast"] = tiny.references()
    # Pictures of another size than the encoder's, which are resized.
    graph = tiny.Graph(latent=tiny.latent(size=12))
    return tiny.optimize(graph, tiny.SAMPLING, settings, **more)


@functools.cache
def noise_found(search: str) -> torch.Tensor:
    return run(search)[0].noise


@pytest.mark.parametrize(
    ("build", "search"),
    [
        (build, search)
        for build in WITH_GRADIENT
        # The others lack no operation.
        for search in (SEARCHES if BUILDS[build].operations else PRESETS)
    ],
)
def test_every_search_has_its_gradient_and_the_same_seed(build, search, monkeypatch):
    expected = noise_found(search)
    notes = []
    with played(build, monkeypatch) as device:
        found, *_ = run(search, on_note=notes.append)
    assert "convolution" in device.seen
    assert not [note for note in notes if "without a gradient" in note]
    assert torch.equal(found.noise, expected)
    lacking = BUILDS[build]
    if lacking.device not in devices.COMPLETE and search != NONE.name:
        assert "_upsample_bicubic2d_aa_backward" in device.elsewhere
        turned = {"grid_sampler_2d", "grid_sampler_2d_backward"} & device.elsewhere
        assert bool(turned) == (SEARCHES[search].views > 1)


@pytest.mark.parametrize("build", ["MPS", "DirectML"])
def test_what_a_build_lacks_is_refused_by_its_double(build, monkeypatch):
    """Else the tests here would prove nothing."""
    monkeypatch.setattr(devices, "COMPLETE", ("cpu", BUILDS[build].device))
    told = (NotImplementedError, RuntimeError, SeedSelectError)
    with played(build, monkeypatch), pytest.raises(told, match=r"implemented|Unsupported"):
        run("default")


@pytest.mark.parametrize("search", PRESETS)
def test_a_build_without_a_backward_goes_on_without_a_gradient(search, monkeypatch):
    notes = []
    with played("DirectML without group norm", monkeypatch):
        seed, *_ = run(search, on_note=notes.append)
    assert re.search(
        r"no gradient can be taken on this device.*docs/devices.md.*native_group_norm_backward"
        r".*without a gradient",
        notes[-1],
    )
    assert seed.semantic[0] <= seed.first_semantic[0]


@pytest.mark.parametrize("build", WITH_GRADIENT)
def test_inversion_and_geometry_need_no_more(build, monkeypatch):
    graph = tiny.Graph()
    with torch.inference_mode():
        with played(build, monkeypatch) as device:
            found = invert_images(
                graph.model,
                graph.positive,
                graph.negative,
                graph.vae,
                tiny.normal(1, 16, 16, 3).sigmoid(),
                replace(tiny.SAMPLING, cfg=1.5),
                refinement=Refinement(4, 1e-3),
            )
            a, b = found.seed.noise[0], tiny.normal(4, 8, 8, seed=3)
            for path in (spherical_path(a, b, 4), shell_path(a, b, 4)):
                assert path.dtype == torch.float32
            assert shell_centroid(torch.stack([a, b])).dtype == torch.float32
            sample_from_seed(graph.model, graph.positive, graph.negative, found.seed)
    assert {"convolution", "conv2d"} & device.seen


def test_float64_of_the_device_is_refused_and_of_the_cpu_is_not(monkeypatch):
    with played("MPS", monkeypatch):
        x = torch.ones(3)
        assert (x.cpu().double() * 2).dtype == torch.float64
        assert torch.linspace(0, 1, 3, dtype=torch.float64).dtype == torch.float64
        with pytest.raises(TypeError, match="float64"):
            x.double()
        with pytest.raises(TypeError, match="float64"):
            torch.mul(x, torch.ones(3, dtype=torch.float64))


# --- what is moved --------------------------------------------------------------------------------


def test_only_devices_that_lack_something_use_the_cpu(monkeypatch):
    moves = []
    monkeypatch.setattr(devices, "moved", lambda x, device: moves.append(device.type) or x)
    images = torch.ones(1, 2, 2, 3)
    assert devices.where_complete(lambda x: 2 * x, images).sum() == 24 and moves == []
    monkeypatch.setattr(devices, "COMPLETE", ())
    assert devices.where_complete(lambda x: 2 * x, images).sum() == 24
    assert moves == ["cpu", "cpu"]


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_card_that_shall_be_deterministic_uses_the_cpu(deterministic, monkeypatch):
    moves = []
    monkeypatch.setattr(devices, "moved", lambda x, device: moves.append(device.type) or x)
    monkeypatch.setattr(devices, "COMPLETE", ("cpu", "meta"))  # in the place of a card
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    for device in ("cpu", "meta"):
        devices.where_complete(lambda x: 2 * x, torch.ones(1, 2, 2, 3, device=device))
    assert moves == (["cpu", "meta"] if deterministic else [])


@pytest.mark.parametrize(
    ("device", "name"),
    [("cpu", ""), ("cuda", ""), ("mps", "MPS"), ("privateuseone", "DirectML"), ("xpu", "XPU")],
)
def test_a_device_is_doubted_where_nobody_has_measured_on_it(device, name, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    assert devices.unproven_device(torch.device(device)) == name


def test_rocm_is_told_from_cuda(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert devices.unproven_device(torch.device("cuda")) == "ROCm"


# --- errors of a build ----------------------------------------------------------------------------

BUILD = "on this device, whose build of PyTorch lacks an operation (see docs/devices.md)"


@pytest.mark.parametrize(
    ("error", "through"),
    [
        (NotImplementedError("The operator 'aten::x' is not currently implemented for the MPS "
                             "device. If you want this op"), BUILD),
        (RuntimeError("MPS: Unsupported Border padding mode"), BUILD),
        (TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't "
                   "support float64. Please use float32 instead."), BUILD),
        (NotImplementedError("Could not run 'aten::x' with arguments from the 'DML' backend."),
         BUILD),
        (RuntimeError("The GPU device does not support Double (Float64) operations!"), BUILD),
        (RuntimeError("Required aspect fp64 is not supported on the device"), BUILD),
        (RuntimeError('INTERNAL ASSERT FAILED at "C:\\torch\\csrc\\autograd\\engine.cpp":1451'),
         "through this graph"),
        (RuntimeError("derivative for aten::_scaled_dot_product_attention_math_for_mps is not "
                      "implemented"), "through this graph"),
        (RuntimeError("a leaf Variable that requires grad is being used in an in-place "
                      "operation."), "through this graph"),
    ],
)  # fmt: skip
def test_what_a_build_or_autograd_refuses_is_told_in_words(error, through):
    told = str(refusal(error, []))
    assert told.startswith(f"SeedSelect: no gradient can be taken {through}: ")
    assert told.endswith(".") and not told.endswith("..")


def test_other_errors_stay_what_they_are_unless_something_is_doubted():
    for error in (RuntimeError("shapes cannot be multiplied"), TypeError("no such argument")):
        assert refusal(error, []) is None
        assert "through sampler 'x': " in str(refusal(error, ["sampler 'x'"]))
    for error in (SeedSelectError("says it all"), KeyError("x"), MemoryError()):
        assert refusal(error, ["sampler 'x'"]) is None


def test_the_words_of_an_error_are_short_and_printable():
    told = str(refusal(RuntimeError("no\n\x1b[31m gradient\ud800 " + 999 * "x"), ["sampler 'x'"]))
    assert told.isprintable() and len(told) < 300 and told.endswith("xxx.")


@pytest.mark.parametrize("part", ["comparison.encode_references", "targets.VaeCodec.encode"])
def test_a_build_that_cannot_encode_the_references_says_so(part, monkeypatch):
    """Before the search, which could go on without a gradient."""
    lacking = NotImplementedError("Could not run 'aten::x' with arguments from the 'DML' backend.")

    def fails(*_):
        raise lacking

    monkeypatch.setattr(f"seedselect_core.likeness.{part}", fails)
    told = rf"encoding the references failed {re.escape(BUILD)}: Could not run .*\. Start ComfyUI"
    with pytest.raises(SeedSelectError, match=told):
        tiny.optimize(tiny.Graph())


# --- the page -------------------------------------------------------------------------------------


def test_the_page_names_what_the_doubles_refuse():
    page = PAGE.read_text("utf-8")
    for operation in BUILDS["DirectML"].operations:
        assert f"`{operation.removesuffix('_')}" in page or "`_foreach_" in page, operation
    for operation in ("grid_sampler_2d_backward", "_upsample_bicubic2d_aa_backward"):
        assert operation in page and operation in without_kernel("XPU") | BUILDS["MPS"].operations
    assert all(name.split()[0] in page for name in BUILDS)


def test_a_double_sees_what_runs_and_in_the_backward_pass(monkeypatch):
    with played("ROCm", monkeypatch) as device:
        assert isinstance(device, Build)
        x = torch.ones(2, requires_grad=True)
        torch.autograd.grad(x.sigmoid().sum(), x)
    assert {"sigmoid", "sigmoid_backward"} <= device.seen
