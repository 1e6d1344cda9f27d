"""Samplers: the names that densekit uses of ``detectron2.data.samplers``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.data.samplers as host
else:
    import detectron2.data.samplers as host

InferenceSampler = host.InferenceSampler
RepeatFactorTrainingSampler = host.RepeatFactorTrainingSampler
TrainingSampler = host.TrainingSampler
