"""Draws of an epoch of training: the registry that ``DATALOADER.SAMPLER_TRAIN`` chooses from.

An entry makes the draw of an epoch; :class:`~densekit.data.order.TrainingOrder` puts the epochs together to the stream
of the job. All that is random comes from the generator that the draw is called with, which the seed and the number of
the epoch determine, so a resumed run goes on with the same images however many processes share them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from densekit.d2.config import CfgNode
from densekit.d2.utils.registry import Registry
from densekit.data.balance import class_aware_weights, label_classes, repeat_factors

__all__ = ["SAMPLERS", "ExtendedRecords", "Sampling", "build_sampling"]

# Called with the config and the records; returns a Sampling.
SAMPLERS = Registry("SAMPLER")


@dataclass(frozen=True)
class Sampling:
    """The draw of an epoch.

    Attributes:
        epoch: Returns the (M,) numbers of one epoch, before shuffling; called with the generator of the stream. Of R
            records, number ``k * R + i`` is record ``i`` with the fields of ``additions[k]``.
        additions: Fields that say how a record is to be mapped, beside none.
    """

    epoch: Callable[[torch.Generator], Tensor]
    additions: Sequence[Mapping[str, Any]] = ({},)


class ExtendedRecords(Dataset):
    """Records with the additions of a :class:`Sampling`, by its numbers.

    Args:
        records: A sequence; each look-up returns a copy.
        additions: As above.
    """

    def __init__(self, records: Any, additions: Sequence[Mapping[str, Any]]) -> None:
        self._records, self._additions = records, additions

    def __len__(self) -> int:
        return len(self._records) * len(self._additions)

    def __getitem__(self, number: int) -> Any:
        addition, index = divmod(number, len(self._records))
        return {**self._records[index], **self._additions[addition]}


def build_sampling(cfg: CfgNode, records: Any) -> Sampling:
    """Makes the draw of an epoch that ``DATALOADER.SAMPLER_TRAIN`` names.

    Raises:
        ValueError: There is no such sampler, or it cannot draw from these records.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name not in SAMPLERS:
        known = ", ".join(sorted(name for name, _ in SAMPLERS))
        raise ValueError(f"DATALOADER.SAMPLER_TRAIN {name!r} is not one of {known}.")
    return SAMPLERS.get(name)(cfg, records)


@SAMPLERS.register()
def TrainingSampler(cfg: CfgNode, records: Any) -> Sampling:  # noqa: N802 - the name that users write
    """Every image once."""
    return Sampling(lambda generator: torch.arange(len(records)))


@SAMPLERS.register()
def RandomSubsetTrainingSampler(cfg: CfgNode, records: Any) -> Sampling:  # noqa: N802 - the name that users write
    """A random part of the images, the same in every epoch."""
    count, ratio = len(records), cfg.DATALOADER.RANDOM_SUBSET_RATIO
    if not 1 <= count * ratio <= count:
        raise ValueError(f"DATALOADER.RANDOM_SUBSET_RATIO {ratio} of {count} images leaves {int(count * ratio)}.")

    def epoch(generator: torch.Generator) -> Tensor:
        # Of the stream's seed, which a resumed run takes from its checkpoint: the same subset in every epoch.
        own = torch.Generator().manual_seed(generator.initial_seed())
        return torch.randperm(count, generator=own)[: int(count * ratio)]

    return Sampling(epoch)


@SAMPLERS.register()
def RepeatFactorTrainingSampler(cfg: CfgNode, records: Any) -> Sampling:  # noqa: N802 - the name that users write
    """Images of rare classes several times; a fraction of a repeat is drawn anew in each epoch."""
    factors = repeat_factors(records, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT)

    def epoch(generator: torch.Generator) -> Tensor:
        repeats = factors.floor() + (torch.rand(len(factors), generator=generator) < factors.frac())
        return torch.repeat_interleave(repeats.long())

    return Sampling(epoch)


@SAMPLERS.register()
def ClassAwareTrainingSampler(cfg: CfgNode, records: Any) -> Sampling:  # noqa: N802 - the name that users write
    """A class first, then an image of it: as many draws as images, some of which come often and others not at all."""
    weights = class_aware_weights(records)
    return Sampling(lambda generator: torch.multinomial(weights, len(weights), replacement=True, generator=generator))


@SAMPLERS.register()
def ClassUniformTrainingSampler(cfg: CfgNode, records: Any) -> Sampling:  # noqa: N802 - the name that users write
    """Crops around pixels of a class, all classes equally often (arXiv 1812.01593).

    Of as many draws as there are images, ``DATALOADER.CLASS_UNIFORM_SHARE`` ask for a crop around a class; the others
    are images without repeats, cropped anywhere. Classes take turns, so that their numbers in an epoch differ by one
    at most, and the image of a class is drawn from those that show it.

    Raises:
        ValueError: The share is no share, an image has no label map, no image shows a class, or INPUT.MAPPER does not
            crop around classes.
    """
    share, count = cfg.DATALOADER.CLASS_UNIFORM_SHARE, len(records)
    if not 0 < share <= 1:
        raise ValueError(f"DATALOADER.CLASS_UNIFORM_SHARE is {share}. It is above 0 and at most 1.")
    if cfg.INPUT.MAPPER != "CropAfterResizeMapper" or not cfg.INPUT.CROP.ENABLED:
        raise ValueError(
            "DATALOADER.SAMPLER_TRAIN ClassUniformTrainingSampler chooses the places of crops. Set INPUT.MAPPER to "
            "CropAfterResizeMapper and INPUT.CROP.ENABLED to True."
        )
    shown = label_classes(records)
    classes = sorted(set().union(*shown))
    if not classes:
        raise ValueError("DATALOADER.SAMPLER_TRAIN ClassUniformTrainingSampler: no training image shows any class.")
    images = [torch.tensor([k for k, of in enumerate(shown) if name in of]) for name in classes]
    focused = round(count * share)

    def epoch(generator: torch.Generator) -> Tensor:
        turns = torch.randperm(len(classes), generator=generator).repeat(-(-focused // len(classes)))[:focused]
        draws = torch.rand(focused, generator=generator, dtype=torch.float64)
        chosen = [images[k][int(draw * len(images[k]))] for k, draw in zip(turns.tolist(), draws.tolist())]
        around = (turns + 1) * count + torch.tensor(chosen, dtype=torch.long)
        return torch.cat([around, torch.randperm(count, generator=generator)[: count - focused]])

    return Sampling(epoch, ({}, *({"crop_class": name} for name in classes)))
