"""Colours for maps of classes: those of public data sets by name, or of a file."""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from cityscapesscripts.helpers.labels import labels as cityscapes_labels

from densekit.data.own.classes import class_list
from densekit.data.semantic_classes import ADE20K, CAMVID
from densekit.data.semantic_colours import ADE20K_COLOURS, CAMVID_COLOURS, Colour, chosen_colours, voc_colours
from densekit.formats.classes import Classes

__all__ = ["PALETTES", "class_colours", "read_palette", "with_palette"]

Palette = Sequence[Colour] | Mapping[str, Colour]  # by the number of a class, or by its name

PALETTES: dict[str, Palette] = {
    "ade20k": dict(zip(ADE20K, ADE20K_COLOURS)),
    "camvid": dict(zip(CAMVID, CAMVID_COLOURS)),
    "cityscapes": {label.name: label.color for label in cityscapes_labels},
    "voc": voc_colours(),
}
_FORMS = (
    "A palette is [[red, green, blue], ...] in the order of the classes, {class: [red, green, blue]} or a list of "
    "classes with 'colors', in JSON or YAML; or text with the three numbers of a class on each line."
)


def read_palette(word: str) -> Palette:
    """Returns the colours of a name of :data:`PALETTES`, or of a file.

    Raises:
        FileNotFoundError: It is neither.
        ValueError: The file holds no colours.
    """
    if word in PALETTES:
        return PALETTES[word]
    path = Path(word)
    if not path.is_file():
        near = difflib.get_close_matches(word, PALETTES, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise FileNotFoundError(f"--palette {word}: no such file, and the names are {', '.join(PALETTES)}.{hint}")
    content = _content(path)
    if isinstance(content, Mapping) and ("names" in content or "classes" in content):
        listed = class_list(word)
        if not listed.colours:
            raise ValueError(f"--palette {path}: the list of classes has no 'colors'. {_FORMS}")
        return dict(zip(listed.names, listed.colours))
    if isinstance(content, Mapping) and content:
        return {str(name): _colour(path, value, f"class {name!r}") for name, value in content.items()}
    if isinstance(content, list) and content:
        return [_colour(path, value, f"class number {number}") for number, value in enumerate(content)]
    raise ValueError(f"--palette {path}: there are no colours. {_FORMS}")


def with_palette(classes: Classes, word: str) -> Classes:
    """Returns the same classes, those of pixels in the colours of a palette.

    Raises:
        FileNotFoundError, ValueError: As of :func:`read_palette`, or the palette has no colour for a class.
    """
    palette = read_palette(word)
    names = [name for _, name in classes.labels]
    if isinstance(palette, Mapping):
        lacking = [name for name in names if name not in palette]
        if lacking:
            others = f" and {len(lacking) - 1} more classes" if len(lacking) > 1 else ""
            raise ValueError(
                f"--palette {word} has no colour for the class {lacking[0]!r}{others}; it names {', '.join(palette)}."
            )
        colours = [palette[name] for name in names]
    else:
        if len(palette) < len(names):
            raise ValueError(
                f"--palette {word} has {len(palette)} colours, and there are {len(names)} classes: the first without "
                f"one is {names[len(palette)]!r}."
            )
        colours = list(palette[: len(names)])
    return classes.with_looks(stuff_colors=[list(colour) for colour in colours])


def class_colours(classes: Classes) -> list[Colour]:
    """Returns RGB of each class of pixels: its data set's or palette's, else different ones."""
    return chosen_colours(classes.looks.get("stuff_colors"), len(classes.labels))


def _content(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            return json.loads(text)
        if path.suffix.lower() in (".yaml", ".yml"):
            return yaml.safe_load(text)
        lines = (line.partition("#")[0].replace(",", " ").split() for line in text.splitlines())
        return [[int(word) for word in words] for words in lines if words]
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"--palette {path} cannot be read: {error}. {_FORMS}") from error


def _colour(path: Path, value: Any, of: str) -> Colour:
    good = isinstance(value, list) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value)
    if not good:
        raise ValueError(f"--palette {path}: the colour of {of} is {value!r}. {_FORMS} The numbers are 0 to 255.")
    return value[0], value[1], value[2]
