"""Metric storage and writers: the names that densekit uses of ``detectron2.utils.events``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.utils.events as host
else:
    import detectron2.utils.events as host

CommonMetricPrinter = host.CommonMetricPrinter
EventStorage = host.EventStorage
EventWriter = host.EventWriter
JSONWriter = host.JSONWriter
TensorboardXWriter = host.TensorboardXWriter
get_event_storage = host.get_event_storage
has_event_storage = host.has_event_storage
