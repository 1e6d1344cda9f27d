"""Samplers: the names that densekit uses of ``detectron2.data.samplers``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.data.samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler
else:
    from detectron2.data.samplers import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler

__all__ = ["InferenceSampler", "RepeatFactorTrainingSampler", "TrainingSampler"]
