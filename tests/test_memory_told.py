"""Out of memory anywhere: tried again with less, and told in one sentence that says what to do."""

import comfy.model_management
import pytest
import torch

import tiny
from seedselect_core.chain.inversion import invert_images
from seedselect_core.errors import SeedSelectError
from seedselect_core.likeness.encoders import ClipVisionEncoder, unit_embeddings
from seedselect_core.likeness.vae import host_pictures
from seedselect_core.memory.failures import out_of_memory, with_room


def no_memory_on_the_cpu() -> None:
    """PyTorch's own error: there is no such memory."""
    torch.empty(2**56, dtype=torch.uint8)


def no_memory_in_python() -> None:
    bytearray(2**60)


def no_memory_on_the_device() -> None:
    raise comfy.model_management.OOM_EXCEPTION("CUDA out of memory")


KINDS = [no_memory_on_the_cpu, no_memory_in_python, no_memory_on_the_device]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_known(kind):
    with pytest.raises((RuntimeError, MemoryError)) as error:
        kind()
    assert out_of_memory(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you "
        "tried to allocate 9 bytes.",
        "MPS backend out of memory (MPS allocated: 9 GB)",
        "Could not allocate tensor with 9 bytes. There is not enough GPU video memory available!",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_the_words_of_other_allocators_are_known(text):
    assert out_of_memory(RuntimeError(text))


def test_our_own_words_are_no_lack_of_memory():
    assert not out_of_memory(SeedSelectError("SeedSelect: out of memory while sampling."))


class Greedy(ClipVisionEncoder):
    """Fails by ``kind`` for more than ``most`` pictures at once, or from a call on."""

    def __init__(self, kind, most: int = 1000, calls: int = 1000):
        super().__init__(tiny.clip_vision())
        self.kind = kind
        self.most = most
        self.calls = calls

    def __call__(self, images):
        self.calls -= 1
        if len(images) > self.most or self.calls < 0:
            self.kind()
        return super().__call__(images)


@pytest.mark.parametrize("kind", KINDS)
def test_references_that_cannot_be_encoded(kind):
    with pytest.raises(
        SeedSelectError, match=r"out of memory while encoding the ref.*Give fewer references"
    ):
        tiny.optimize(tiny.Graph(encoder=Greedy(kind, most=0)))


@pytest.mark.parametrize("kind", KINDS)
def test_references_are_encoded_once_there_is_room(kind, monkeypatch):
    encoder = Greedy(kind, most=0)

    def unload() -> None:
        encoder.most = 1000

    monkeypatch.setattr(comfy.model_management, "unload_all_models", unload)
    tiny.optimize(tiny.Graph(encoder=encoder))


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_goes_on_with_less_and_then_says_what_to_do(kind):
    kept = []
    with pytest.raises(SeedSelectError, match=r"out of memory.*best seed so far is kept"):
        tiny.optimize(tiny.Graph(encoder=Greedy(kind, calls=5)), on_unfinished=kept.append)
    assert len(kept) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_compared_one_by_one(kind):
    images = torch.rand(5, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    plain = unit_embeddings(ClipVisionEncoder(tiny.clip_vision()), images)
    assert torch.allclose(unit_embeddings(Greedy(kind, most=1), images), plain, atol=1e-6)
    with pytest.raises(SeedSelectError, match=r"out of memory while comparing.*clip_vision"):
        unit_embeddings(Greedy(kind, most=0), images)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_inverted_one_by_one(kind):
    graph = tiny.Graph()
    images = torch.rand(3, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    given = (graph.positive, graph.negative, graph.vae, images, tiny.SAMPLING)
    progress = []

    def invert(most: int):
        model = graph.model.clone()

        def wrapper(apply, given):
            if len(given["input"]) > 2 * most:  # both prompts in one call
                kind()
            return apply(given["input"], given["timestep"], **given["c"])

        model.set_model_unet_function_wrapper(wrapper)
        return invert_images(model, *given, on_step=lambda *done: progress.append(done))

    with torch.inference_mode():
        whole = invert(3)
        progress.clear()
        parts = invert(1)
        assert parts.seed.noise.shape == whole.seed.noise.shape
        assert torch.allclose(parts.seed.noise, whole.seed.noise, atol=0.02)
        assert len(parts.rmse) == len(parts.latent["samples"]) == 3
        assert progress[-1][0] == progress[-1][1]
        with pytest.raises(SeedSelectError, match=r"out of memory while inverting.*smaller"):
            invert(0)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_that_cannot_be_decoded(kind):
    class Vae:
        def decode(self, latents):
            kind()

    with pytest.raises(SeedSelectError, match=r"out of memory while decoding.*Lower the batch"):
        host_pictures(Vae(), torch.zeros(1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_that_does_not_fit(kind, nodes, monkeypatch):
    module = nodes("report")
    monkeypatch.setattr(module, "diversity_report", lambda *_: kind())
    pictures = torch.rand(8, 16, 16, 3)
    inputs = {"references": tiny.references(), "bins": 0, "clip_vision": tiny.clip_vision()}
    with pytest.raises(ValueError, match=r"out of memory while comparing.*Give fewer"):
        tiny.run_node(module.DiversityReportNode, generated=pictures, **inputs)


def test_the_error_that_is_told_holds_no_frame_of_what_was_in_the_way():
    def work():
        big = torch.zeros(10)
        assert len(big)
        raise MemoryError("full")

    with pytest.raises(SeedSelectError) as error:
        with_room(work, (), where="testing", remedy="Stop.")
    assert str(error.value) == "SeedSelect: out of memory while testing. Stop."
    cause = error.value.__cause__
    assert (
        str(cause) == "MemoryError: full"
        and cause.__traceback__ is None
        and cause.__context__ is None
    )
    assert error.value.__context__ is None


def test_other_errors_go_through_at_once():
    calls = []

    def work():
        calls.append(1)
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        with_room(work, (), (), where="testing", remedy="Stop.")
    assert len(calls) == 1


def test_an_error_from_outside_of_the_pack_is_told_with_what_was_done():
    def work():
        torch.nn.functional.interpolate(torch.zeros(1), (2,))

    told = (
        r"^SeedSelect: testing failed in the model, .* pack: ValueError: .* Check that a plain KS"
    )
    with pytest.raises(SeedSelectError, match=told) as error:
        with_room(work, (), where="testing", remedy="Stop.")
    assert isinstance(error.value.__cause__, RuntimeError)


def test_a_cancelled_run_stays_one():
    def work():
        comfy.model_management.throw_exception_if_processing_interrupted()

    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        with_room(work, (), where="testing", remedy="Stop.")
