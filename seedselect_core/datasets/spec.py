"""What a data set is to be: a YAML file, checked field by field.

A spec may come from a stranger. It names model files, which are looked for in the host's folders
alone, folders of references, which must lie beside it or in the host's input, and where to write.
"""

import itertools
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import folder_paths
import yaml

from ..errors import Rule, SeedSelectError, is_number, is_whole, require_rules
from ..references import resolve_folder
from ..search.presets import PRESETS
from ..search.settings import Settings
from ..seeds.seed import SamplingSettings
from ..sets.bootstrap import SetSettings
from ..text import printable, quoted

# A class is a folder, a part of a file's name and a label: what every system takes for one name.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
NAME_RULE = "1 to 64 letters, digits, _ or -, of which the first is a letter or digit"
OUTPUTS = ("imagefolder", "webdataset", "seeds")
LARGEST = 10_000_000  # bytes of a spec
MOST_PROMPTS = 1_000_000  # of a class, all words put in
TOY_PROMPT = "a {ink} letter {class} on {ground}"


@dataclass(frozen=True)
class ModelSpec:
    """Which model draws, and which encoders judge: names of files in the host's folders.

    Attributes:
        toy: the model that ships with this pack; no file is named then.
        checkpoint: a file that holds model, text encoder and VAE.
        diffusion_model, text_encoders, text_encoder_type: instead of a checkpoint; the type is a
            name of the host's, such as "flux".
        vae: instead of that of the checkpoint.
        clip_vision: the image encoders that the search follows, one or more.
        second_opinion: one that it does not follow, or empty.
    """

    toy: bool = False
    checkpoint: str = ""
    diffusion_model: str = ""
    text_encoders: tuple[str, ...] = ()
    text_encoder_type: str = "stable_diffusion"
    vae: str = ""
    clip_vision: tuple[str, ...] = ()
    second_opinion: str = ""

    def __post_init__(self):
        names = {f.name: getattr(self, f.name) for f in fields(self)}
        lists = {name: names.pop(name) for name in ("text_encoders", "clip_vision")}
        toy = names.pop("toy")
        one = bool(self.checkpoint) != bool(self.diffusion_model)
        parts = self.checkpoint or (self.text_encoders and self.vae)
        require_rules(
            Rule("model.toy", isinstance(toy, bool), "yes or no", toy),
            *(Rule(f"model.{k}", isinstance(v, str), "a name", v) for k, v in names.items()),
            *(Rule(f"model.{k}", _are_names(v), "a list of names", v) for k, v in lists.items()),
            Rule("model", toy or one, "toy, a checkpoint or a diffusion_model", names),
            Rule("model", toy or parts, "such that text_encoders and vae are named too", names),
            Rule("model.clip_vision", toy or lists["clip_vision"], "one name or more", "none"),
        )


@dataclass(frozen=True)
class UnitSpec:
    """How the work is cut. A unit is one call of `make_set`, and one file.

    Attributes:
        pictures: wanted of one unit; it may find fewer.
        batch: pictures that are optimized side by side.
        more: how many times the units may be made that would do if every picture were kept.
        threads: of the processor that a worker takes; another number gives other last bits.
    """

    pictures: int = 16
    batch: int = 8
    more: float = 3.0
    threads: int = 1

    def __post_init__(self):
        whole = {name: getattr(self, name) for name in ("pictures", "batch", "threads")}
        rule = "a whole number of 1 or more"
        more = is_number(self.more) and self.more >= 1
        require_rules(
            *(Rule(f"units.{k}", is_whole(v) and v >= 1, rule, v) for k, v in whole.items()),
            Rule("units.more", more, "a number of 1 or more", self.more),
        )


@dataclass(frozen=True)
class Gates:
    """What a picture must be to be kept. All are in units of the references' own spread.

    That is their mean distance from what they have in common, to the encoder in question.

    Attributes:
        min_distance: from every other picture of the class that is kept.
        max_loss: semantic loss by the first encoder; 0 for no such gate.
        max_second: by the second opinion; 0 for no such gate.
    """

    min_distance: float = 0.07
    max_loss: float = 0.0
    max_second: float = 0.0

    def __post_init__(self):
        require_rules(
            *(
                Rule(f"gates.{k}", is_number(v) and v >= 0, "a number of 0 or more", v)
                for k, v in asdict(self).items()
            )
        )


@dataclass(frozen=True)
class ClassSpec:
    """One class.

    Attributes:
        name: label and name of its folder.
        prompts: all of them, words put in; the pictures of the class take turns.
        pictures: wanted.
        references: folder of its references, or None for those that ship with the toy model.
    """

    name: str
    prompts: tuple[str, ...]
    pictures: int
    references: Path | None = None


@dataclass(frozen=True)
class Spec:
    """A data set.

    Attributes:
        classes: one or more, of different names.
        model, units, gates: see there.
        output: a folder, or an address that fsspec knows, such as "s3://bucket/folder".
        width, height: of the pictures, in pixels.
        sampling: how pictures are drawn; its number is that of the whole set.
        search: settings of the first batch of each unit.
        bootstrap: how a unit goes on from there; ``count`` is not used.
        references: of each class, at most, by name.
        negative: prompt.
        outputs: of `OUTPUTS`.
        shard: pictures in a shard of webdataset, at most.
    """

    classes: tuple[ClassSpec, ...]
    output: str
    model: ModelSpec
    width: int
    height: int
    sampling: SamplingSettings
    search: Settings
    bootstrap: SetSettings = field(default_factory=SetSettings)
    units: UnitSpec = field(default_factory=UnitSpec)
    gates: Gates = field(default_factory=Gates)
    references: int = 5
    negative: str = ""
    outputs: tuple[str, ...] = OUTPUTS
    shard: int = 1000

    def __post_init__(self):
        sides = {"width": self.width, "height": self.height}
        counts = {"references": self.references, "shard": self.shard}
        names = [one.name for one in self.classes]
        outputs = ", ".join(map(str, self.outputs))
        folded = [name.casefold() for name in names]
        require_rules(
            *(
                Rule(k, is_whole(v) and v >= 64 and v % 8 == 0, "a multiple of 8, 64 or more", v)
                for k, v in sides.items()
            ),
            *(
                Rule(k, is_whole(v) and v >= 1, "a whole number of 1 or more", v)
                for k, v in counts.items()
            ),
            Rule("output", self.output and isinstance(self.output, str), "a folder", self.output),
            Rule("negative", isinstance(self.negative, str), "a text", self.negative),
            Rule("classes", len(names) > 0, "one or more", "none"),
            Rule("classes", len(set(folded)) == len(folded), "of different names", names),
            Rule("outputs", all(one in OUTPUTS for one in self.outputs), f"of {OUTPUTS}", outputs),
        )

    def of(self, name: str) -> ClassSpec:
        """The class of that name."""
        return next(one for one in self.classes if one.name == name)


def load_spec(path: Path, output: str | None = None) -> Spec:
    """The spec in a file; folders of references are relative to it.

    Args:
        output: where to write, instead of what the file says.

    Raises:
        SeedSelectError: it cannot be read, or a field is not what it must be; which, and what.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise SeedSelectError(f"spec: '{path}' has more than {LARGEST} bytes.")
        text = path.read_text(encoding="utf-8")
        # A few lines of them stand for more than fits into memory.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise SeedSelectError("spec: it has aliases (*name). Write out what they stand for.")
        data = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        if isinstance(error, SeedSelectError):
            raise
        raise SeedSelectError(f"spec: '{path}' cannot be read: {error}") from quoted(error)
    data = _mapping("spec", data)
    if output is not None:
        data = data | {"output": output}
    return _spec_of(data, path.resolve().parent)


def _spec_of(data: dict, beside: Path) -> Spec:
    known = {f.name for f in fields(Spec)} - {"search", "bootstrap"}
    _require_known("spec", data, {*known, "seed", "search", "bootstrap", "prompts", "words"})
    given = {key: data[key] for key in known & data.keys()}
    _require_given("spec", data, ("output", "classes", "model"))
    model = _model_of(given["model"])
    sides = {"width": 64, "height": 64} if model.toy else {}
    given = sides | given | {"model": model}
    _require_given("spec", given, ("width", "height"))
    given["outputs"] = tuple(_list("outputs", data.get("outputs", list(OUTPUTS))))
    given["sampling"] = _sampling_of(data)
    given["search"] = _search_of(_mapping("search", data.get("search", {})))
    given["bootstrap"] = _made("bootstrap", SetSettings, data.get("bootstrap", {}), ("count",))
    given["units"] = _made("units", UnitSpec, data.get("units", {}))
    given["gates"] = _made("gates", Gates, data.get("gates", {}))
    shared = {key: data[key] for key in ("prompts", "words") if key in data}
    given["classes"] = tuple(
        _class_of(f"classes[{n}]", shared | _mapping(f"classes[{n}]", one), model, beside)
        for n, one in enumerate(_list("classes", data["classes"]))
    )
    return Spec(**given)


def _model_of(data: Any) -> ModelSpec:
    data = _mapping("model", data)
    one = data.get("clip_vision")
    listed = {"clip_vision": [one]} if isinstance(one, str) else {}
    lists = ("clip_vision", "text_encoders")
    data = {k: tuple(v) if k in lists and isinstance(v, list) else v for k, v in data.items()}
    return _made("model", ModelSpec, data | {k: tuple(v) for k, v in listed.items()})


def _sampling_of(data: dict) -> SamplingSettings:
    given = _mapping("sampling", data.get("sampling", {}))
    _require_known("sampling", given, ("steps", "cfg", "sampler", "scheduler"))
    facts = {
        "steps": given.get("steps", 20),
        "cfg": given.get("cfg", 7.0),
        "sampler_name": given.get("sampler", "ddim"),
        "scheduler": given.get("scheduler", "normal"),
        "seed": data.get("seed", 0),
    }
    return _named("sampling", lambda: SamplingSettings(**facts))


def _search_of(given: dict) -> Settings:
    name = given.pop("preset", "default")
    known = name in PRESETS if isinstance(name, str) else False
    require_rules(Rule("search.preset", known, f"one of {', '.join(PRESETS)}", name))
    _require_known("search", given, {f.name for f in fields(Settings)} - {"weights"})
    return _named("search", lambda: replace(PRESETS[name], **given))


def _class_of(place: str, data: dict, model: ModelSpec, beside: Path) -> ClassSpec:
    _require_known(place, data, ("name", "prompts", "words", "references", "pictures"))
    _require_given(place, data, ("name", "pictures"))
    name = data["name"]
    place = f"class '{printable(name, 64)}'"
    named = isinstance(name, str) and NAME.fullmatch(name) is not None
    pictures = data["pictures"]
    require_rules(
        Rule(f"{place}.name", named, NAME_RULE, name),
        Rule(f"{place}.pictures", is_whole(pictures) and pictures >= 1, "1 or more", pictures),
    )
    shipped = model.toy and "references" not in data
    if shipped:
        require_rules(
            Rule(f"{place}.name", name in tuple(string.ascii_uppercase), "a capital letter", name)
        )
    templates = _list(f"{place}.prompts", data.get("prompts", [TOY_PROMPT] if model.toy else []))
    words = _mapping(f"{place}.words", data.get("words", {}))
    if not shipped:
        _require_given(place, data, ("references",))
    folder = None if shipped else _folder(place, data["references"], beside)
    return ClassSpec(name, expand(place, templates, words, name), pictures, folder)


def _folder(place: str, name: Any, beside: Path) -> Path:
    """A folder beside the spec, or one inside the host's input folder."""
    require_rules(Rule(f"{place}.references", isinstance(name, str), "a folder", name))
    roots = (beside, Path(folder_paths.get_input_directory()))
    found = next((root / name for root in roots if (root / name).is_dir()), beside / name)
    return _named(place, lambda: resolve_folder(found, roots))


def expand(
    place: str, templates: Sequence[Any], words: Mapping[str, Any], name: str
) -> tuple[str, ...]:
    """Every prompt that the templates make with the words: "a {color} {class}".

    Args:
        place: of the class in the spec, for messages.
        words: lists by the names that stand in braces. "class" is ``name`` with spaces for "_".
    """
    known = {"class": [name.replace("_", " ")]}
    for key, values in words.items():
        named = f"{place}.words.{printable(key, 60)}"
        known[key] = _list(named, values)
        plain = all(isinstance(one, str) or is_number(one) for one in values)
        require_rules(Rule(named, plain, "a list of words", values))
    found: dict[str, None] = {}
    for template in templates:
        require_rules(Rule(f"{place}.prompts", isinstance(template, str), "texts", template))
        keys = _keys(place, template, known)
        for chosen in itertools.product(*(known[key] for key in keys)):
            found[_filled(template, dict(zip(keys, map(str, chosen), strict=True)))] = None
            if len(found) > MOST_PROMPTS:
                raise SeedSelectError(f"{place}.prompts: they make more than {MOST_PROMPTS}.")
    require_rules(Rule(f"{place}.prompts", len(found) > 0, "one or more", "none"))
    return tuple(found)


def _keys(place: str, template: str, known: Mapping[str, Any]) -> list[str]:
    """The names in braces, each once."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise SeedSelectError(f"{place}.prompts: '{template}': {error}.") from None
    keys = list(dict.fromkeys(key for _, key, _, _ in parts if key is not None))
    for key in keys:
        if key not in known:
            raise SeedSelectError(
                f"{place}.prompts: '{template}' has {{{key}}}, for which there are no words."
            )
    return keys


def _filled(template: str, chosen: Mapping[str, str]) -> str:
    parts = string.Formatter().parse(template)
    return "".join(text + ("" if key is None else chosen[key]) for text, key, _, _ in parts)


# ---------------------------------------------------------------- what YAML gives


def _mapping(place: str, value: Any) -> dict:
    good = isinstance(value, dict) and all(isinstance(key, str) for key in value)
    require_rules(Rule(place, good, "a mapping of names to values", value))
    return dict(value)


def _list(place: str, value: Any) -> list:
    require_rules(Rule(place, isinstance(value, list), "a list", value))
    return value


def _are_names(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, str) for one in value)


def _require_known(place: str, data: Mapping, known) -> None:
    for key in data:
        if key not in known:
            raise SeedSelectError(
                f"{place}: there is no field '{printable(key, 60)}', only "
                f"{', '.join(sorted(known))}."
            )


def _require_given(place: str, data: Mapping, names: Sequence[str]) -> None:
    for name in names:
        if name not in data:
            raise SeedSelectError(f"{place}: the field '{name}' is missing.")


def _made(place: str, kind, data: Any, without: Sequence[str] = ()):
    data = _mapping(place, data)
    _require_known(place, data, {f.name for f in fields(kind)} - set(without))
    return _named(place, lambda: kind(**data))


def _named(place: str, make):
    """What ``make`` gives; an error names the place of the field in the spec."""
    try:
        return make()
    except SeedSelectError as error:
        told = str(error)
        raise SeedSelectError(told if told.startswith(place) else f"{place}.{told}") from None
