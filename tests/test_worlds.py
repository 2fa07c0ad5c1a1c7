"""Both worlds give the training commands what they ask for: pictures, captions, a long tail."""

import numpy as np
import pytest
import torch

from pocket.atlas import load_atlas
from pocket.drawing import COLORS, LETTERS, fonts_seen
from pocket.hands.words import GESTURES, GROUNDS
from pocket.making.checkpoint import Progress
from pocket.making.hands.world import Drawn, Hands, hard_view, on_grounds
from pocket.making.letters_world import GLYPHS, Letters
from pocket.making.train_autoencoder import reconstructed, train
from pocket.making.train_diffusion import prompt_indices, prompts
from pocket.making.train_towers import Captions, contrastive, write_tokenizer
from pocket.making.world import LOOKS, load_world, values
from seedselect_core import pocket
from seedselect_core.pocket import Toy, vocabulary

WORLDS = ("letters", "hands")


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.fixture
def hands_work(tmp_path):
    """A folder with two "drawn" hands of each gesture: squares, of colors that tell which."""
    count = 2 * len(GESTURES)
    pixels = np.zeros((count, 64, 64, 4), np.uint8)
    pixels[:, 16:48, 16:48, 3] = 255
    pixels[:, 16:48, 16:48, 0] = np.arange(count)[:, None, None] * 6
    which = np.arange(count)
    facts = {"gesture": which % 20, "side": which % 2, "view": which // 20, "tone": 0 * which}
    for name in ("train", "unseen", "rare"):
        np.savez(tmp_path / f"hands_{name}.npz", pixels=pixels, **facts)
    return tmp_path


@pytest.fixture
def letters_work(tmp_path):
    """A folder with the capitals of the atlas in the place of all glyphs."""
    masks = load_atlas("tuning").numpy()
    count = len(masks)
    np.savez(
        tmp_path / "glyphs.npz",
        masks=masks,
        digits=masks[:, :10],
        others=np.concatenate([masks, masks[:, :3]], 1),
        has_digits=np.ones(count, bool),
        paths=[f"made/{number}.otf" for number in range(count)],
        families=["made"] * count,
        split=["train"] * count,
    )
    return tmp_path


@pytest.mark.parametrize("name", WORLDS)
def test_every_prompt_is_known_word_by_word_and_fits(name, tmp_path):
    world = load_world(name)
    world.toy = Toy(tmp_path)
    write_tokenizer(world)
    tokenizer = pocket.PocketTokenizer(toy=world.toy)
    texts = prompts(world)[:-1]
    assert (
        len(texts) == len(set(texts)) == {"letters": 26 * 11 * 11, "hands": 20 * 3 * 3 * 11}[name]
    )
    for text in texts[:: 7 if name == "letters" else 1]:
        (tokens,) = ([token for token, _ in row] for row in tokenizer.tokenize_with_weights(text))
        assert len(tokens) == pocket.PROMPT_TOKENS
        assert pocket.UNKNOWN not in tokens, text
        assert tokens[-1] == pocket.END


def test_the_letters_words_are_those_of_the_shipped_tokenizer(tmp_path):
    world = Letters()
    shipped = vocabulary(world.toy)
    world.toy = Toy(tmp_path)
    write_tokenizer(world)
    assert vocabulary(world.toy) == shipped


@pytest.mark.parametrize("name", WORLDS)
def test_a_picture_is_trained_with_its_own_prompt_or_less_of_it(name):
    world = load_world(name)
    every = prompts(world)
    sizes = [len(of) for of in world.attributes.values()]
    facts = torch.stack([torch.randint(size, (4000,), generator=seeded()) for size in sizes], 1)
    told = [every[index] for index in prompt_indices(world, facts, seeded(1))]
    whole = [world.text(row) for row in values(world.attributes, facts, facts >= 0)]
    empty = sum(text == "" for text in told) / len(told)
    less = sum(text not in ("", own) for text, own in zip(told, whole, strict=True)) / len(told)
    assert 0.08 < empty < 0.12 and 0.035 < less < 0.065
    concepts = next(iter(world.attributes.values()))
    for text, (concept, *_) in zip(told, facts.tolist(), strict=True):
        assert not text or concepts[concept] in text


def test_what_is_not_told_is_left_out_of_a_prompt():
    assert Hands().text(("open ok", "left", "", "")) == "a left hand, open ok"
    assert Hands().text(("fist", "", "back", "red")) == "a hand, back, fist, on red"
    assert Letters().text(("S", "red", "")) == "a red letter S"


def test_hands_are_painted_on_the_ground_that_their_facts_tell(hands_work):
    pictures, facts = Hands().alike(hands_work, "train").sample(200, seeded())
    means = torch.tensor(list(GROUNDS.values()))
    corner = pictures[:, :, 0, 0]
    assert torch.equal(torch.cdist(corner, means).argmin(1), facts[:, 3])
    which = (pictures[:, 0, 32, 32] * 255 / 6).round().long()
    assert torch.equal(which % 20, facts[:, 0]) and torch.equal(which % 2, facts[:, 1])
    assert torch.equal(which // 20, facts[:, 2])


def test_covered_in_part_a_pixel_is_in_part_ground():
    pixels = torch.tensor([[[[100, 50, 0, 127]]]], dtype=torch.uint8)
    mixed = on_grounds(pixels, torch.tensor([[1.0, 0, 1]]))[0, :, 0, 0] * 255
    assert torch.allclose(mixed, torch.tensor([228.0, 50, 128]), atol=0.01)


@pytest.mark.parametrize(("look", "grounds"), [("plain", 1), ("one", 1), ("any", 10)])
def test_a_batch_of_hands_is_as_much_alike_as_asked(hands_work, look, grounds):
    source = Drawn(hands_work / "hands_train.npz")
    _, facts = source.sample(300, seeded(), look)
    assert len(facts[:, 3].unique()) == grounds
    assert len(facts[:, 0].unique()) == 20


def test_views_are_of_hands_that_show_the_same(hands_work):
    path = hands_work / "hands_train.npz"
    with np.load(path) as file:
        facts = {name: file[name] for name in file}
    np.savez(path, **facts | {"view": 0 * facts["view"]})  # so that there are two of each
    source = Hands().views(hands_work)
    kinds = torch.arange(len(source.facts.unique(dim=0)))
    once, again = (source.any_of(kinds, seeded(seed)) for seed in (1, 2))
    assert torch.equal(source.facts[once], source.facts[again])
    assert len(source.facts[once].unique(dim=0)) == len(kinds)
    assert (once != again).any()
    views = source.triple(16, seeded(), plain=False)
    assert all(view.shape == (16, 3, 64, 64) for view in views)
    assert not torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])


@pytest.mark.parametrize("look", LOOKS)
def test_skin_tells_no_two_views_of_a_hand_apart(look):
    cover = torch.full((1, 64, 64, 1), 255)
    light, dark = (
        hard_view(torch.cat([tone.expand(1, 64, 64, 3), cover], 3).byte(), 0, look, seeded())
        for tone in (torch.tensor([40]), torch.tensor([200]))
    )
    assert torch.allclose(light, dark, atol=1e-5)


def test_letters_show_what_their_facts_tell(letters_work):
    world = Letters()
    pictures, facts = world.alike(letters_work, "train").sample(100, seeded())
    assert pictures.shape == (100, 3, 64, 64) and facts.shape == (100, 3)
    assert (facts[:, 1] != facts[:, 2]).all()
    rare = world.rare(letters_work)
    assert rare.counts == {letter: min(fonts_seen(letter), 16) for letter in LETTERS}
    _, told = rare.sample(4000, seeded())
    shown = torch.bincount(told[:, 0], minlength=26)
    assert shown[LETTERS.index("S")] < 0.5 * shown[LETTERS.index("A")]


@pytest.mark.parametrize(
    ("look", "pairs"), [("plain", {1}), ("one", {1}), ("any", set(range(50, 91)))]
)
def test_a_batch_of_glyphs_is_as_much_alike_as_asked(letters_work, look, pairs):
    source = Letters().captioned(letters_work, "train")
    _, facts = source.sample(200, seeded(), look)
    assert len(facts[:, 1:].unique(dim=0)) in pairs
    if look == "plain":
        assert [COLORS[color] for color in facts[0, 1:]] == ["black", "white"]


def test_captions_tell_the_kind_of_a_glyph(letters_work):
    world = Letters()
    source = world.captioned(letters_work, "train")
    told = [GLYPHS.index("6"), COLORS.index("red"), COLORS.index("blue")]
    facts = torch.tensor([told, told])
    named = torch.tensor([[True, True, False], [True, True, True]])
    words = {token: word for word, token in vocabulary(world.toy).items()}
    rows = Captions(world.toy, source)(facts, named).tolist()
    first, second = ([words[token] for token in row] for row in rows)
    assert first == ["<start>", "a", "red", "digit", "6"] + ["<end>"] * 11
    assert second == ["<start>", "a", "red", "digit", "6", "on", "blue"] + ["<end>"] * 9


def test_a_caption_fits_every_picture_that_it_does_not_contradict():
    facts = torch.tensor([[0, 1], [0, 2], [3, 1]])
    named = torch.tensor([[True, False], [True, True], [True, True]])
    image = torch.eye(3)
    # The first caption names the concept alone, so it fits the second picture too.
    text = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]])
    right = contrastive(image, text, 20.0, facts, named)
    wrong = contrastive(image, torch.eye(3), 20.0, facts, named)
    assert right < wrong


@pytest.mark.parametrize(("channels", "levels", "side"), [(8, (1, 1, 2, 3), 8), (4, (1, 2, 3), 16)])
def test_an_autoencoder_of_other_latents_is_trained_and_goes_on(hands_work, channels, levels, side):
    toy = Toy(hands_work, channels, levels)
    source = Hands().alike(hands_work, "train")
    progress = Progress(hands_work / "autoencoder.pt")
    model = train(toy, source, 1, progress)
    pictures, _ = source.sample(2, seeded())
    with torch.no_grad():
        assert model.encode(pictures).shape == (2, channels, side, side)
    assert reconstructed(model, pictures).shape == pictures.shape


def test_a_toy_of_other_latents_takes_the_hosts_empty_one(tmp_path):
    import comfy.sample

    model = pocket.build_unet(toy=Toy(tmp_path, 4, (1, 2, 3)))

    class Patcher:
        def get_model_object(self, name):
            return getattr(model, name)

    empty = torch.zeros(1, 4, 8, 8)
    fixed = comfy.sample.fix_empty_latent_channels(Patcher(), empty, 8)
    assert fixed.shape == (1, 4, 16, 16)
