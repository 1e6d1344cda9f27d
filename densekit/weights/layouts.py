"""The vocabularies of parameter names that are known, one line each; a new one joins the table and nothing else."""

from collections.abc import Collection

from densekit.weights.detr import DETR
from densekit.weights.maskscoring import MASK_SCORING
from densekit.weights.mmdetection import MMDETECTION
from densekit.weights.pointrend import OLD_POINTREND
from densekit.weights.renaming import Layout
from densekit.weights.upernet import CSAIL_UPERNET, DEEP_STEM_RESNET, MMSEG_UPERNET

# The first layout that matches is taken.
LAYOUTS: tuple[Layout, ...] = (
    MASK_SCORING,
    DETR,
    MMDETECTION,
    OLD_POINTREND,
    MMSEG_UPERNET,
    CSAIL_UPERNET,
    DEEP_STEM_RESNET,
)


def find_layout(names: Collection[str]) -> Layout | None:
    """The layout of a file with these names; ``None`` if it is Detectron2's own or unknown."""
    return next((layout for layout in LAYOUTS if layout.matches(names)), None)
