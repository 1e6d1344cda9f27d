"""Finds what is wrong with a data set, all of it at once, and writes a corrected copy: ``densekit check``."""

from densekit.data.inspect.datasets import content_hashes, inspect_dataset
from densekit.data.inspect.findings import Finding, Findings, Histogram
from densekit.data.inspect.fix import fix_coco
from densekit.data.inspect.inspection import Inspection, Options, inspect_coco
from densekit.data.inspect.kinds import KINDS, Kind

__all__ = [
    "KINDS",
    "Finding",
    "Findings",
    "Histogram",
    "Inspection",
    "Kind",
    "Options",
    "content_hashes",
    "fix_coco",
    "inspect_coco",
    "inspect_dataset",
]
