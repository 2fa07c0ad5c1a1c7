"""Stage 2: the text and vision towers, trained together as CLIP is. All letters alike.

python -m pocket.making.train_towers --work WORK [--steps 2600] [--threads 1]

Every picture of a batch is compared with every caption; captions that mean the same count as the
same (soft targets), since there are only 2,340 of them. A part of a caption is left out now and
then, so that "a letter Q" and "a red letter" mean something too. Writes the tokenizer,
``text_encoder.safetensors`` and ``clip_vision.safetensors``.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torchvision.utils import save_image

from . import host_cpu  # noqa: F401

# isort: split
import comfy.clip_model
from comfy.clip_vision import ClipVisionModel

from seedselect_core import pocket

from ..drawing import COLORS, LETTERS, PALETTE, RGB, color_pairs, jitter, paint
from .checkpoint import WEIGHTS, Progress, save_weights
from .glyphs import Glyphs

BATCH = 96
# Left alone, the towers tell captions apart by colour and learn no letters. So the first part is
# black on white, and later two batches of three are of one pair of colours.
BLACK_ON_WHITE = 0.15


def write_tokenizer() -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<start>", "<end>", "<unknown>", "letter", "on", *PALETTE, *LETTERS.lower()]
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
    fast.save_pretrained(WEIGHTS / "tokenizer")


def caption_tokens(letter, ink, ground, keep_colors) -> torch.Tensor:
    """Token rows [B, 16]; ``keep_colours`` 0: no colour, 1: ink, 2: ground, 3: both."""
    vocabulary = json.loads((WEIGHTS / "tokenizer/tokenizer.json").read_text())["model"]["vocab"]
    rows = []
    for k, i, g, c in zip(letter, ink, ground, keep_colors, strict=True):
        words = ["a", *([COLORS[i]] if c & 1 else []), "letter", LETTERS[k].lower()]
        words += ["on", COLORS[g]] if c & 2 else []
        row = [pocket.START, *(vocabulary[word] for word in words)]
        rows.append(row + [pocket.END] * (pocket.PROMPT_TOKENS - len(row)))
    return torch.tensor(rows)


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
    def __init__(self):
        super().__init__()
        self.text = pocket.PocketClipModel(dtype=torch.float32).transformer
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


def sample(glyphs: Glyphs, count: int, generator: torch.Generator, whole=False, alike=None):
    """Pictures [B, 3, 64, 64] and, for each, letter, ink, ground and which colours are named.

    ``alike`` fixes ink and ground of the whole batch, so that only letters tell captions apart.
    """
    font = torch.randint(len(glyphs), (count,), generator=generator)
    letter = torch.randint(26, (count,), generator=generator)
    ink, ground = color_pairs(count, generator)
    if alike is not None:
        ink, ground = (torch.full_like(ink, color) for color in alike)
    named = torch.randint(0, 8, (count,), generator=generator).clamp(max=3)
    named = torch.full_like(named, 3) if whole else named
    pictures = paint(jitter(glyphs.masks[font, letter], generator), RGB[ink], RGB[ground])
    noise = torch.rand(count, 1, 1, 1, generator=generator) * 0.05
    pictures = pictures + noise * torch.randn(pictures.shape, generator=generator)
    return pictures.clamp(0, 1), letter, ink, ground, named


def contrastive(image, text, scale, letter, ink, ground, named) -> torch.Tensor:
    """Symmetric cross entropy; a caption fits every picture that it does not contradict."""
    fits = letter[:, None] == letter
    fits &= ((named & 1) == 0)[None] | (ink[:, None] == ink)
    fits &= ((named & 2) == 0)[None] | (ground[:, None] == ground)
    target = fits.float()
    logits = scale * image @ text.T
    rows = -(target / target.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    columns = -(target / target.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return (rows + columns) / 2


@torch.no_grad()
def zero_shot(towers: Towers, glyphs: Glyphs) -> str:
    """How often the right caption of the 26 (colours named) and of 10 inks comes first."""
    generator = torch.Generator().manual_seed(3)
    letters = inks = 0
    for _ in range(8):
        pictures, letter, ink, ground, _ = sample(glyphs, 64, generator, whole=True)
        for i in range(0, 64, 8):
            tokens = caption_tokens(range(26), [ink[i]] * 26, [ground[i]] * 26, [3] * 26)
            image, text = towers(pictures[i : i + 1], tokens)
            letters += int((image @ text.T).argmax() == letter[i])
            tokens = caption_tokens([letter[i]] * 10, range(10), [ground[i]] * 10, [3] * 10)
            inks += int((image @ towers(pictures[:1], tokens)[1].T).argmax() == ink[i])
    return f"letter {letters / 64:.3f}, ink {inks / 64:.3f} on unseen fonts"


@torch.no_grad()
def likeness_picture(towers: Towers, glyphs: Glyphs, work: Path) -> None:
    """``towers.png``: pictures of A to Z (rows) against captions of A to Z; brighter is nearer."""
    ink = [COLORS.index("black")] * 26
    ground = [COLORS.index("white")] * 26
    pictures = paint(glyphs.masks[0].float() / 255, RGB[ink], RGB[ground])
    image, text = towers(pictures, caption_tokens(range(26), ink, ground, [3] * 26))
    likeness = (image @ text.T).clamp(0, 1)[None, None]
    save_image(F.interpolate(likeness, scale_factor=16), work / "towers.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    comfy.clip_model.CLIPLayer.forward = out_of_place_layer
    write_tokenizer()
    towers = Towers()
    glyphs = Glyphs(args.work, "train")
    unseen = Glyphs(args.work, "unseen")
    optimizer = torch.optim.AdamW(towers.parameters(), 1e-3, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, args.steps, pct_start=0.1)
    progress = Progress(args.work / "towers.pt")
    first = progress.resume(towers, optimizer, schedule)
    generator = torch.Generator()
    began = time.time()
    for step in range(first, args.steps):
        generator.manual_seed(step)
        alike = None
        if step < BLACK_ON_WHITE * args.steps:
            alike = (COLORS.index("black"), COLORS.index("white"))
        elif step % 3:
            alike = tuple(int(color) for color in color_pairs(1, generator))
        pictures, letter, ink, ground, named = sample(glyphs, BATCH, generator, alike=alike)
        tokens = caption_tokens(letter, ink, ground, named)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            image, text = towers(pictures, tokens)
        scale = towers.log_scale.exp().clamp(max=50)
        loss = contrastive(image, text, scale, letter, ink, ground, named)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(towers.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step} loss {loss:.3f} {time.time() - began:.0f} s", flush=True)
        if step % 200 == 199:
            progress.save(step + 1, towers, optimizer, schedule)
            print(zero_shot(towers, unseen), flush=True)
    likeness_picture(towers, unseen, args.work)
    save_weights(towers.text.state_dict(), "text_encoder")
    save_weights(towers.vision.state_dict(), "clip_vision")


if __name__ == "__main__":
    main()
