"""What makes units: the models of a spec, loaded once by the host's own loaders."""

import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.model_management
import comfy.sample
import comfy.sd
import comfy.utils
import folder_paths
import torch

from ..errors import SeedSelectError
from ..likeness.comparison import Comparison, compare_with
from ..likeness.encoders import ClipVisionEncoder
from ..pocket import load_pocket_model, load_second_vision
from ..references import ReferenceSet, load_reference_folder, reference_set_from_batch
from ..search.scene import Callbacks, Scene
from ..seeds.origin import Origin
from ..seeds.seed import Seed
from ..sets.bootstrap import PictureSet, make_set
from ..sheets import as_picture
from .spec import ClassSpec, ModelSpec, Spec
from .units import Made, Unit, facts_of, key_of, sha256

# What the toy model's encoders are called, where a spec names them.
TOY_VISION = "clip_vision"
TOY_SECOND = "second_vision"
KINDS = {  # of the fields of a ModelSpec, the host's folders of models
    "checkpoint": "checkpoints",
    "diffusion_model": "diffusion_models",
    "text_encoders": "text_encoders",
    "vae": "vae",
    "clip_vision": "clip_vision",
    "second_opinion": "clip_vision",
}


@dataclass(frozen=True)
class Models:
    """What a spec names, loaded.

    Attributes:
        model, clip, vae: as the host's loaders give them.
        encoders: that the search follows.
        second: one that it does not follow, or None.
    """

    model: Any
    clip: Any
    vae: Any
    encoders: Sequence[ClipVisionEncoder]
    second: ClipVisionEncoder | None


def model_files(model: ModelSpec) -> dict[str, str]:
    """The path of every file that a spec names, by "field: name".

    Raises:
        SeedSelectError: there is none of that name in the host's folders.
    """
    found = {}
    for field, kind in KINDS.items() if not model.toy else ():
        names = getattr(model, field)
        for name in [names] if isinstance(names, str) else names:
            if name:
                found[f"{field}: {name}"] = _model_file(field, kind, name)
    return found


def _model_file(field: str, kind: str, name: str) -> str:
    # By the host's list, not by a path: "../../elsewhere" is on none.
    there = folder_paths.get_filename_list(kind)
    path = folder_paths.get_full_path(kind, name) if name in there else None
    if path is None:
        raise SeedSelectError(
            f"model.{field}: there is no '{name}' among ComfyUI's {kind}: "
            f"{', '.join(there) or 'none'}. If that is not your own ComfyUI, set COMFYUI_DIR."
        )
    return path


@torch.inference_mode()
def load_models(model: ModelSpec) -> Models:
    """Load all that a spec names. Raises `SeedSelectError` where a file lacks its part."""
    if model.toy:
        return _toy_models(model)
    paths = model_files(model)
    embeddings = folder_paths.get_folder_paths("embeddings")
    if model.checkpoint:
        loaded = comfy.sd.load_checkpoint_guess_config(
            paths[f"checkpoint: {model.checkpoint}"], embedding_directory=embeddings
        )
        patcher, clip, vae = loaded[:3]
    else:
        patcher = comfy.sd.load_diffusion_model(paths[f"diffusion_model: {model.diffusion_model}"])
        kind = comfy.sd.CLIPType.__members__.get(model.text_encoder_type.upper())
        if kind is None:
            raise SeedSelectError(
                f"model.text_encoder_type: '{model.text_encoder_type}' is none of "
                f"{', '.join(one.name.lower() for one in comfy.sd.CLIPType)}."
            )
        texts = [paths[f"text_encoders: {name}"] for name in model.text_encoders]
        clip = comfy.sd.load_clip(texts, embedding_directory=embeddings, clip_type=kind)
        vae = None
    if model.vae:
        vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(paths[f"vae: {model.vae}"]))
    if patcher is None or clip is None or vae is None:
        raise SeedSelectError(
            "model: the checkpoint lacks a model, a text encoder or a VAE. Name one that holds all "
            "three, or a vae, or diffusion_model, text_encoders and vae."
        )
    encoders = [_encoder("clip_vision", name, paths) for name in model.clip_vision]
    second = model.second_opinion
    second = _encoder("second_opinion", second, paths) if second else None
    return Models(patcher, clip, vae, encoders, second)


def _encoder(field: str, name: str, paths: dict[str, str]) -> ClipVisionEncoder:
    found = comfy.clip_vision.load(paths[f"{field}: {name}"])
    if found is None:
        raise SeedSelectError(f"model.{field}: '{name}' is no CLIP, SigLIP or DINO vision model.")
    return ClipVisionEncoder(found)


def _toy_models(model: ModelSpec) -> Models:
    patcher, clip, vae, vision = load_pocket_model()
    encoders = {TOY_VISION: vision, TOY_SECOND: load_second_vision()}
    names = [*(model.clip_vision or (TOY_VISION,)), *filter(None, [model.second_opinion])]
    for name in names:
        if name not in encoders:
            raise SeedSelectError(
                f"model.clip_vision: the toy model has {', '.join(encoders)}, and no '{name}'."
            )
    made = [ClipVisionEncoder(encoders[name]) for name in names]
    second = made.pop() if model.second_opinion else None
    return Models(patcher, clip, vae, made, second)


def sizes_of(model: ModelSpec) -> dict[str, int]:
    """Bytes of every file that a spec names, by "field: name"."""
    return {name: Path(path).stat().st_size for name, path in model_files(model).items()}


def references_of(spec: Spec, one: ClassSpec) -> tuple[ReferenceSet, list[str]]:
    """The references of a class, and warnings about files that were left out."""
    if one.references is not None:
        try:
            return load_reference_folder(one.references, limit=spec.references)
        except SeedSelectError as error:
            raise SeedSelectError(f"class '{one.name}'.references: {error}") from None
    from pocket.references import PER_LETTER, letter_pictures

    pictures = letter_pictures(one.name, min(spec.references, PER_LETTER))
    return reference_set_from_batch(torch.from_numpy(pictures).float() / 255), []


class Maker:
    """Makes the units of a spec. The models are loaded when the first one is asked for."""

    def __init__(self, spec: Spec):
        self.spec = spec

    @functools.cached_property
    def models(self) -> Models:
        return load_models(self.spec.model)

    @functools.cached_property
    def files(self) -> dict[str, int]:
        """The size of every file that the spec names."""
        return sizes_of(self.spec.model)

    @torch.inference_mode()
    def make(self, unit: Unit, callbacks: Callbacks | None = None) -> Made:
        """One unit, from nothing but the spec."""
        if comfy.model_management.cpu_mode():
            torch.set_num_threads(self.spec.units.threads)
        spec = self.spec
        one = spec.of(unit.label)
        models = self.models
        references, _ = references_of(spec, one)
        prompts, positive = self._prompts(unit)
        scene = Scene(
            models.model,
            positive,
            self._condition([spec.negative]),
            models.vae,
            models.encoders[0],
            references,
            self._latent(),
            further_encoders=tuple(models.encoders[1:]),
            second_opinion=models.second,
        )
        seed, made = make_set(
            scene,
            spec.sampling.override(seed=unit.noise_number(spec.sampling.seed)),
            spec.search,
            replace(spec.bootstrap, count=spec.units.pictures),
            callbacks=callbacks or Callbacks(),
        )
        facts = facts_of(spec, one, references.fingerprint(), self.files)
        return self._told(unit, key_of(facts), seed, made, prompts, references)

    def _told(
        self,
        unit: Unit,
        key: str,
        seed: Seed,
        made: PictureSet,
        prompts: list[str],
        references: ReferenceSet,
    ) -> Made:
        """All pictures that the set kept, those that its own seed had no place for too."""
        size = (made.images.shape[2], made.images.shape[1])
        spread = self._comparison(self.models.encoders[0], references, size).spread
        opinions: list[float] = []
        second_spread = 0.0
        if self.models.second is not None:
            second = self._comparison(self.models.second, references, size)
            second_spread = second.spread
            opinions = [float(second(image[None], 0)[0]) for image in made.images]
        pictures = [png(image) for image in made.images]
        whole = replace(
            seed,
            noise=made.noise,
            semantic=made.semantic,
            first_semantic=made.first_semantic,
            total=[],
            origin=Origin(model=self._model_name(), references=references.fingerprint()),
        )
        return Made(
            unit,
            key,
            (spread, second_spread),
            [prompts[row] for row in made.rows],
            made.semantic,
            made.first_semantic,
            opinions,
            sum(made.evaluations),
            made.duplicates,
            made.misses,
            [sha256(data) for data in pictures],
            made.embeddings.numpy(),
            pictures,
            whole.encoded(),
        )

    def _model_name(self) -> str:
        model = self.spec.model
        name = model.checkpoint or model.diffusion_model or "toy"
        return name if len(name) <= 100 and name.isprintable() else ""

    def _comparison(
        self, encoder: ClipVisionEncoder, references: ReferenceSet, size: tuple[int, int]
    ) -> Comparison:
        comfy.model_management.load_models_gpu([encoder.patcher])
        return compare_with(references, encoder, size)

    def _prompts(self, unit: Unit) -> tuple[list[str], list]:
        """The prompt of each picture of the batch, and all as one conditioning.

        Where the model reads them at different lengths, the first is that of all.
        """
        prompts = unit.prompts(self.spec)
        try:
            return prompts, self._condition(prompts)
        except _Differ:
            return prompts[:1] * len(prompts), self._condition(prompts[:1])

    def _condition(self, prompts: list[str]) -> list:
        clip = self.models.clip
        each = {text: clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in prompts}
        if len(each) == 1:
            return each[prompts[0]]
        return _joined([each[text] for text in prompts])

    def _latent(self) -> dict:
        spec = self.spec
        empty = torch.zeros(spec.units.batch, 4, spec.height // 8, spec.width // 8)
        return {"samples": comfy.sample.fix_empty_latent_channels(self.models.model, empty, 8)}


class _Differ(Exception):
    """Prompts that cannot stand in one batch."""


def _joined(each: Sequence[list]) -> list:
    """Conditionings of one prompt each as that of a batch: a prompt for each picture."""
    conds = [one[0] for one in each]
    extras = [extra for _, extra in conds]
    if any(len(one) != 1 for one in each) or any(e.keys() != extras[0].keys() for e in extras):
        raise _Differ
    together = {key: _together([extra[key] for extra in extras]) for key in extras[0]}
    return [[_together([cond for cond, _ in conds]), together]]


def _together(values: list) -> Any:
    if all(isinstance(value, torch.Tensor) for value in values):
        if any(value.shape != values[0].shape for value in values):
            raise _Differ
        return torch.cat(values)
    if any(value != values[0] for value in values):
        raise _Differ
    return values[0]


def png(image: torch.Tensor) -> bytes:
    """A picture [H, W, 3] in 0..1 as a file."""
    file = io.BytesIO()
    as_picture(image).save(file, format="PNG")
    return file.getvalue()
