"""Stage 2: the text and vision towers, trained together as CLIP is. All concepts alike.

python -m pocket.making.train_towers --work WORK [--world hands] [--steps 4000] [--threads 1]

Every picture of a batch is compared with every caption; captions that mean the same count as the
same (soft targets), since there are only a few thousand of them. A part of a caption is left out
now and then, so that "a letter Q" and "a red letter" mean something too. Writes the tokenizer,
``text_encoder.safetensors`` and ``clip_vision.safetensors``.
"""

import argparse
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torchvision.utils import save_image

from . import host_cpu  # noqa: F401

# isort: split
import comfy.clip_model
from comfy.clip_vision import ClipVisionModel

from seedselect_core import pocket

from .checkpoint import Progress, save_weights
from .world import NAMES, Captioned, World, load_world, values

BATCH = 96
# Left alone, the towers tell captions apart by colour and learn no shapes. So the first part is of
# one plain look, and later two batches of three are of one look.
PLAIN = 0.15


def write_tokenizer(world: World) -> None:
    from tokenizers import models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<start>", "<end>", "<unknown>", *world.words]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unknown>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<start>",
        eos_token="<end>",
        unk_token="<unknown>",
        pad_token="<end>",
    )
    fast.save_pretrained(world.toy.weights / "tokenizer")


class Captions:
    """Captions as the towers take them."""

    def __init__(self, toy: pocket.Toy, pictures: Captioned):
        self._pictures = pictures
        self._tokenizer = Tokenizer.from_file(str(toy.weights / "tokenizer" / "tokenizer.json"))
        self._tokenizer.enable_padding(pad_id=pocket.END, length=pocket.PROMPT_TOKENS)

    def __call__(self, facts: torch.Tensor, named: torch.Tensor) -> torch.Tensor:
        """Token rows [B, 16] of facts [B, A], as far as they are ``named`` [B, A]."""
        told = values(self._pictures.attributes, facts, named)
        rows = self._tokenizer.encode_batch([self._pictures.caption(row) for row in told])
        return torch.tensor([row.ids for row in rows])


def out_of_place_layer(self, x, mask=None, optimized_attention=None):
    """The host's CLIPLayer adds in place, which autograd refuses; the same sum, for training."""
    x = x + self.self_attn(self.layer_norm1(x), mask, optimized_attention)
    return x + self.mlp(self.layer_norm2(x))


def initialize(module: torch.nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
        elif "norm" in name:
            torch.nn.init.ones_(parameter)
        elif "embedding" in name:
            torch.nn.init.normal_(parameter, std=0.02)
        else:
            torch.nn.init.xavier_uniform_(parameter)


class Towers(torch.nn.Module):
    def __init__(self, toy: pocket.Toy):
        super().__init__()
        self.text = pocket.PocketClipModel(dtype=torch.float32, toy=toy).transformer
        vision = ClipVisionModel(str(pocket.VISION_CONFIG))
        self.mean = vision.image_mean[0]
        self.std = vision.image_std[0]
        self.vision = vision.model.float()
        self.requires_grad_(True)
        initialize(self.text)
        initialize(self.vision)
        patch = self.vision.vision_model.embeddings.patch_embedding.weight
        torch.nn.init.normal_(patch, std=1 / math.sqrt(patch[0].numel()))
        self.log_scale = torch.nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, pictures, tokens):
        embeds = self.text.get_input_embeddings()(tokens, out_dtype=torch.float32)
        lengths = [int((row != pocket.END).sum()) + 1 for row in tokens]
        text = self.text(None, None, embeds=embeds, num_tokens=lengths)[2]
        image = self.vision((pictures - self.mean) / self.std)[2]
        return F.normalize(image.float(), dim=1), F.normalize(text.float(), dim=1)


def contrastive(image, text, scale, facts, named) -> torch.Tensor:
    """Symmetric cross entropy; a caption fits every picture that it does not contradict."""
    target = (~named | (facts[:, None] == facts)).all(2).float()
    logits = scale * image @ text.T
    rows = -(target / target.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    columns = -(target / target.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (rows + columns) / 2


@torch.no_grad()
def zero_shot(towers: Towers, pictures: Captioned, captions: Captions) -> str:
    """How often the right caption comes first of those that differ in one attribute alone."""
    images, facts = pictures.sample(256, torch.Generator().manual_seed(3), "any")
    right: dict[str, list[bool]] = {}
    for image, fact in zip(images, facts, strict=True):
        for column, (attribute, of) in enumerate(pictures.attributes.items()):
            others = fact.repeat(len(of), 1)
            others[:, column] = torch.arange(len(of))
            tokens = captions(others, torch.ones_like(others, dtype=torch.bool))
            picture, text = towers(image[None], tokens)
            kind = pictures.kinds[fact[0]] if column == 0 else attribute
            found = (picture @ text.T).argmax() == fact[column]
            right.setdefault(kind, []).append(bool(found))
    told = [f"{kind} {sum(found) / len(found):.3f}" for kind, found in right.items()]
    return f"{', '.join(told)} on what was not seen"


@torch.no_grad()
def likeness_picture(towers: Towers, pictures: Captioned, captions: Captions, work: Path) -> None:
    """``towers.png``: plain pictures of each concept (rows) against captions; bright is near."""
    images, facts = pictures.sample(2048, torch.Generator().manual_seed(4), "plain")
    concepts = facts[:, 0].tolist()
    rows = [concepts.index(concept) for concept in sorted(set(concepts))]
    named = torch.ones(len(rows), facts.shape[1], dtype=torch.bool)
    image, text = towers(images[rows], captions(facts[rows], named))
    likeness = (image @ text.T).clamp(0, 1)[None, None]
    save_image(F.interpolate(likeness, scale_factor=16), work / "towers.png")


def look_at(step: int, steps: int) -> str:
    """How much alike the pictures of a step are."""
    if step < PLAIN * steps:
        return "plain"
    return "one" if step % 3 else "any"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--world", choices=NAMES, default=NAMES[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    comfy.clip_model.CLIPLayer.forward = out_of_place_layer
    world = load_world(args.world)
    write_tokenizer(world)
    towers = Towers(world.toy)
    seen = world.captioned(args.work, "train")
    unseen = world.captioned(args.work, "unseen")
    captions = Captions(world.toy, seen)
    optimizer = torch.optim.AdamW(towers.parameters(), 1e-3, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, args.steps, pct_start=0.1)
    progress = Progress(args.work / "towers.pt")
    first = progress.resume(towers, optimizer, schedule)
    generator = torch.Generator()
    began = time.time()
    for step in range(first, args.steps):
        generator.manual_seed(step)
        pictures, facts = seen.sample(BATCH, generator, look_at(step, args.steps))
        named = seen.named(BATCH, generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            image, text = towers(pictures, captions(facts, named))
        scale = towers.log_scale.exp().clamp(max=50)
        loss = contrastive(image, text, scale, facts, named)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(towers.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step} loss {loss:.3f} {time.time() - began:.0f} s", flush=True)
        if step % 200 == 199:
            progress.save(step + 1, towers, optimizer, schedule)
        if step % 1000 == 999:
            print(zero_shot(towers, unseen, captions), flush=True)
    likeness_picture(towers, unseen, captions, args.work)
    save_weights(towers.text.state_dict(), "text_encoder", world.toy.weights)
    save_weights(towers.vision.state_dict(), "clip_vision", world.toy.weights)


if __name__ == "__main__":
    main()
