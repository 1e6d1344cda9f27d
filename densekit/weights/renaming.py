"""Rules that rename parameters, and the error for names that no rule knows.

A name that is not known is an error that lists the names: a detector that silently lacks a layer still trains, only
worse.
"""

import re
from collections.abc import Sequence

import torch

Weights = dict[str, torch.Tensor]
# (pattern of a whole name, its new name with \1 ...); None leaves the entry out.
Rule = tuple[str, str | None]

_SHOWN = 20


def unknown_names(layout: str, names: Sequence[str]) -> str:
    """The message about entries that no rule of a layout knows."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (
        f"The weights look like {layout}'s, but these entries are of no part that is known: "
        f"{', '.join(names[:_SHOWN])}{more}."
    )


def rename(weights: Weights, rules: Sequence[Rule], layout: str) -> Weights:
    """Renames the entries of one module, each by the first rule that fits its whole name.

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
            raise ValueError(f"Two entries of {layout}'s weights, {name!r} among them, are {target!r}.")
        renamed[target] = value
    if unknown:
        raise ValueError(unknown_names(layout, unknown))
    return renamed


def resnet_rules() -> list[Rule]:
    """Rules for a ResNet in torchvision's names, which OpenMMLab and many authors share."""
    rules: list[Rule] = [
        (r".+\.num_batches_tracked", None),
        (r"conv(\d)\.weight", r"stem.conv\1.weight"),
        (r"bn(\d)\.(\w+)", r"stem.conv\1.norm.\2"),
    ]
    for k in range(3):  # ResNetV1c: convolution, norm and ReLU, three times in one list
        rules += [
            (rf"stem\.{3 * k}\.weight", rf"stem.conv{k + 1}.weight"),
            (rf"stem\.{3 * k + 1}\.(\w+)", rf"stem.conv{k + 1}.norm.\1"),
        ]
    for k in range(1, 5):  # layer1 is res2
        old, new = rf"layer{k}\.(\d+)\.", rf"res{k + 1}.\1."
        rules += [
            (old + r"conv(\d)\.weight", new + r"conv\2.weight"),
            (old + r"bn(\d)\.(\w+)", new + r"conv\2.norm.\3"),
            (old + r"downsample\.0\.weight", new + r"shortcut.weight"),
            (old + r"downsample\.1\.(\w+)", new + r"shortcut.norm.\2"),
        ]
    return rules


# A name that every file with a ResNet in those names has.
RESNET_SIGN = r"layer1\.0\.conv1\.weight"
