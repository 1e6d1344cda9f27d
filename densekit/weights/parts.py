"""Other code bases' names of parameters, described part by part and composed to the layout of a file.

A :class:`Vocabulary` is a code base's way to put a model together: its slots (backbone, neck, heads ...), what the
names in each begin with, and where densekit's model has them. A :class:`Part` is one kind of module in one of these
slots, such as a ResNet as backbone or a pyramid as neck; its rules are relative to the slot. A new backbone below heads
that are known is one part more, and no new layout.

Shared vocabularies and parts are in this package; those of one system are in its room and join as it is imported.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from densekit.weights.pixels import Pixels
from densekit.weights.renaming import Rule, Weights, unknown_names

# (new names of the slot's entries, those of each slot that the file has, names of the model or None) -> what the
# entries begin with, or None where the model has no use for them
Place = Callable[[Collection[str], Mapping[str, Collection[str]], Collection[str] | None], str | None]


@dataclass(frozen=True)
class Slot:
    """A place in a vocabulary's models.

    Attributes:
        source: pattern of what the names of its entries begin with; "" where they are not nested.
        target: what they begin with in densekit's model, or a function that decides it.
        optional: a file is of the vocabulary without it too.
    """

    source: str
    target: str | Place
    optional: bool = True


@dataclass(frozen=True)
class Part:
    """One kind of module in a slot.

    Attributes:
        name: for messages, such as ``"ResNet"``.
        vocabularies: names of those whose models have it.
        slot: of the vocabularies.
        signs: patterns of names, relative to the slot; a file has the part if it has a name for each of them.
        rules: (pattern of a whole name, new name or None to leave the entry out), both relative to the slot.
        adapt: changes a tensor, given its new name relative to the slot.
        fit: where the model decides what is taken: gets the slot's entries and the model's below the same place, both
            under relative names, and returns the entries for that model.
        pixels: that published files with this part were trained on, where all of them agree.
    """

    name: str
    vocabularies: Collection[str]
    slot: str
    signs: Sequence[str]
    rules: Sequence[Rule]
    adapt: Callable[[str, torch.Tensor], torch.Tensor] | None = None
    fit: Callable[[Weights, Weights], Weights] | None = None
    pixels: Pixels | None = None

    def is_in(self, names: Collection[str]) -> bool:
        """Tells from the names of a slot's entries, relative to it, whether the part is there."""
        return all(any(re.fullmatch(sign, name) for name in names) for sign in self.signs)


@dataclass(frozen=True)
class Vocabulary:
    """One code base's way to name the parts of a model.

    Attributes:
        name: for messages, such as ``"OpenMMLab"``.
        slots: by name; entries take the first slot whose prefix and rules fit.
        ignored: patterns of whole names that have no counterpart here.
        fit: a last word on the entries of the whole model, given the model's.
    """

    name: str
    slots: Mapping[str, Slot]
    ignored: Sequence[str] = ()
    fit: Callable[[Weights, Weights], Weights] | None = None


class Layout:
    """The parts that were recognised in one file.

    Args:
        vocabulary: that the file is of.
        parts: recognised, by slot.
    """

    def __init__(self, vocabulary: Vocabulary, parts: Mapping[str, Sequence[Part]]) -> None:
        self.vocabulary, self.parts = vocabulary, parts

    @property
    def name(self) -> str:
        return self.vocabulary.name

    @property
    def pixels(self) -> set[Pixels]:
        """The pixels that the file was trained on, as far as its parts tell."""
        return {part.pixels for parts in self.parts.values() for part in parts if part.pixels is not None}

    def convert(self, weights: Weights, model: Weights | None = None) -> Weights:
        """Renames the entries of a file to densekit's names.

        Args:
            weights: of the file.
            model: the state dict of the model that they are for; without it the usual place of each part is taken.

        Raises:
            ValueError: names of no known part, or two entries that get one name; the message lists them. Or the model
                has no place for a part.
        """
        slots: dict[str, Weights] = {slot: {} for slot in self.parts}
        if unknown := self.unknown(list(weights)):
            raise ValueError(unknown_names(self.name, unknown))
        for name, value in weights.items():
            slot, part, new = (None if self._is_ignored(name) else self._renamed(name)) or ("", None, None)
            if part is None or new is None:
                continue
            if new in slots[slot]:
                raise ValueError(
                    f"The weights look like {self.name}'s, but two of their entries, {name!r} among them, are {new!r} "
                    f"of its {slot}."
                )
            slots[slot][new] = part.adapt(new, value) if part.adapt else value
        return self._placed(slots, model)

    def unknown(self, names: Collection[str]) -> list[str]:
        """The names that no part knows."""
        return [name for name in names if not self._is_ignored(name) and self._renamed(name) is None]

    def _is_ignored(self, name: str) -> bool:
        return any(re.fullmatch(pattern, name) for pattern in self.vocabulary.ignored)

    def _renamed(self, name: str) -> tuple[str, Part, str | None] | None:
        """The slot of an entry, its part, and its new name there."""
        for slot, parts in self.parts.items():
            prefix = re.match(self.vocabulary.slots[slot].source, name)
            if prefix is None:
                continue
            for part in parts:
                for pattern, new in part.rules:
                    if match := re.fullmatch(pattern, name[prefix.end() :]):
                        return slot, part, None if new is None else match.expand(new)
        return None

    def _placed(self, slots: Mapping[str, Weights], model: Weights | None) -> Weights:
        placed: Weights = {}
        for slot, entries in slots.items():
            target = self.vocabulary.slots[slot].target
            prefix = target if isinstance(target, str) else target(entries, slots, model)
            if prefix is None:
                continue
            if model is not None:
                there = {name[len(prefix) :]: value for name, value in model.items() if name.startswith(prefix)}
                for part in self.parts[slot]:
                    entries = part.fit(entries, there) if part.fit else entries
            placed |= {prefix + name: value for name, value in entries.items()}
        if model is not None and self.vocabulary.fit:
            return self.vocabulary.fit(placed, model)
        return placed


_VOCABULARIES: dict[str, Vocabulary] = {}
_PARTS: list[Part] = []


def register_vocabulary(vocabulary: Vocabulary) -> Vocabulary:
    """Makes a vocabulary known.

    Raises:
        ValueError: there is one of that name.
    """
    if vocabulary.name in _VOCABULARIES:
        raise ValueError(f"There is a vocabulary {vocabulary.name!r} already; name the new one otherwise.")
    _VOCABULARIES[vocabulary.name] = vocabulary
    return vocabulary


def register_part(part: Part) -> Part:
    """Makes a part known; its vocabularies may follow.

    Raises:
        ValueError: a vocabulary has a part of that name in that slot.
    """
    for other in _PARTS:
        both = set(other.vocabularies) & set(part.vocabularies)
        if both and (other.slot, other.name) == (part.slot, part.name):
            raise ValueError(f"{min(both)} has a {part.slot} {part.name!r} already; name the new one otherwise.")
    _PARTS.append(part)
    return part


def layouts_of(names: Collection[str]) -> list[Layout]:
    """Every layout that a file with these names can be of, those that know most of the names first."""
    layouts = [layout for vocabulary in _VOCABULARIES.values() if (layout := _recognised(vocabulary, names))]
    return sorted(layouts, key=lambda layout: len(layout.unknown(names)))


def find_layout(names: Collection[str]) -> Layout | None:
    """The layout of a file with these names; None if it is Detectron2's own or unknown.

    Raises:
        ValueError: two layouts know equally many of the names.
    """
    first, second, *_ = [*layouts_of(names), None, None]
    if first and second and len(first.unknown(names)) == len(second.unknown(names)):
        raise ValueError(f"The names of these weights are those of {first.name} and of {second.name}.")
    return first


def rename_part(vocabulary: str, slot: str, weights: Weights) -> Weights:
    """Renames the entries of one slot by themselves; old and new names are relative to it.

    Args:
        vocabulary: its name.
        slot: of the vocabulary.
        weights: what the slot holds.

    Raises:
        ValueError: names of no known part; the message lists them.
    """
    alone = replace(_VOCABULARIES[vocabulary], slots={slot: Slot("", "", optional=False)}, fit=None)
    layout = _recognised(alone, weights)
    if layout is None:
        raise ValueError(unknown_names(f"the {slot} of {vocabulary}", list(weights)))
    return layout.convert(weights)


def _recognised(vocabulary: Vocabulary, names: Collection[str]) -> Layout | None:
    """The layout of a file of this vocabulary: of all slots that it must have, a part is there."""
    parts: dict[str, list[Part]] = {}
    for slot, place in vocabulary.slots.items():
        inside = [name[match.end() :] for name in names if (match := re.match(place.source, name))]
        found = [
            part
            for part in _PARTS
            if part.slot == slot and vocabulary.name in part.vocabularies and inside and part.is_in(inside)
        ]
        if found:
            parts[slot] = found
        elif not place.optional:
            return None
    return Layout(vocabulary, parts) if parts else None


def wherever_it_is(usual: str) -> Place:
    """A place for a part that stands alone in its file: where the model has most of its names.

    Args:
        usual: what the names begin with where no model is known.
    """

    def place(entries: Collection[str], slots: Mapping[str, Collection[str]], model: Collection[str] | None) -> str:
        if model is None:
            return usual
        whole = {f".{entry}": entry for entry in entries}
        found: Counter[str] = Counter()
        for name in model:
            for start in (match.start() for match in re.finditer(r"\.|^", name)):
                if (name[start:] if start else f".{name}") in whole:
                    found[name[: start + 1] if start else ""] += 1
        prefix, count = found.most_common(1)[0] if found else ("", 0)
        if 2 * count < len(entries):
            raise ValueError(
                "The weights are of a backbone that the model does not have. Set MODEL.BACKBONE.NAME, or of a pyramid "
                "MODEL.FPN.BOTTOM_UP, to that of the weights."
            )
        return prefix

    return place
