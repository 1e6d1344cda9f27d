"""Weights of mmdetection's CARAFE: its layers in the pyramid and in the mask head; all else is shared vocabulary."""

from densekit.weights.openmmlab import DETECTORS
from densekit.weights.parts import Part, register_part

register_part(
    Part(
        "CARAFE in the pyramid",
        (DETECTORS,),
        "neck",
        (r"upsample_modules\.0\.\w+\.weight",),
        # upsample_modules.0 enlarges p3
        [(rf"upsample_modules\.{k}\.(\w+\.\w+)", rf"fpn_upsample{k + 3}.\1") for k in range(4)],
    )
)
register_part(
    Part(
        "CARAFE in the mask head",
        (DETECTORS,),
        "mask_head",
        (r"upsample\.\w+\.weight",),
        [(r"upsample\.(\w+\.\w+)", r"upsample.\1")],
    )
)
