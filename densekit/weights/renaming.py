"""Other code bases' vocabularies of parameter names, and how one becomes densekit's; the table is in layouts.py.

A layout knows every name that its files hold. A name that it does not know is an error that lists the names: a detector
that silently lacks a layer still trains, only worse.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch

Weights = dict[str, torch.Tensor]
# (pattern of a whole name, its new name with \1 ...); None leaves the entry out.
Rule = tuple[str, str | None]

_SHOWN = 20


@dataclass(frozen=True)
class Layout:
    """One vocabulary of parameter names.

    Attributes:
        name: for messages, such as ``"mmdetection"``.
        matches: tells from the names of a file whether it is of this layout.
        convert: returns the weights under the names of densekit's model; raises ValueError on names it does not know.
        fit: where the model decides what is taken: gets converted weights and the model's state dict, and returns the
            weights for that model.
    """

    name: str
    matches: Callable[[Collection[str]], bool]
    convert: Callable[[Weights], Weights]
    fit: Callable[[Weights, Weights], Weights] | None = None


def rename(weights: Weights, rules: Sequence[Rule], layout: str) -> Weights:
    """Renames every entry by the first rule that fits its whole name.

    Raises:
        ValueError: no rule fits some names, or two entries get one name; the message lists them.
    """
    renamed: Weights = {}
    unknown = []
    for name, value in weights.items():
        fits = ((match, new) for pattern, new in rules if (match := re.fullmatch(pattern, name)))
        match, new = next(fits, (None, None))
        if match is None:
            unknown.append(name)
        if match is None or new is None:
            continue
        target = match.expand(new)
        if target in renamed:
            raise ValueError(
                f"The weights look like {layout}'s, but two of their entries, {name!r} among them, are {target!r}."
            )
        renamed[target] = value
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise ValueError(
            f"The weights look like {layout}'s, but these entries are of no part that is known: "
            f"{', '.join(unknown[:_SHOWN])}{more}."
        )
    return renamed
