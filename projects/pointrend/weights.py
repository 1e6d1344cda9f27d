"""Checkpoints of Detectron2's PointRend from before its heads were one mask head; newer ones need no renaming."""

from densekit.weights.parts import Part, Slot, Vocabulary, register_part, register_vocabulary

_NAME = "Detectron2's early PointRend"
_COARSE = r"(?:mask_coarse_head|mask_head\.coarse_head)\."

register_vocabulary(
    Vocabulary(_NAME, {"roi_heads": Slot(r"roi_heads\.", "roi_heads.", optional=False), "others": Slot("", "")})
)
register_part(
    Part(
        "mask head",
        (_NAME,),
        "roi_heads",
        (r"mask_coarse_head\..+|mask_point_head\..+|mask_head\.coarse_head\.coarse_mask_fc.+",),
        [
            (_COARSE + r"coarse_mask_fc(\d+)\.(\w+)", r"mask_head.coarse_head.fc\1.\2"),
            (
                _COARSE + r"(fc\d+|prediction|reduce_(?:channel|spatial)_dim_conv)\.(\w+)",
                r"mask_head.coarse_head.\1.\2",
            ),
            (
                r"(?:mask_point_head|mask_head\.point_head)\.(fc\d+|predictor)\.(\w+)",
                r"mask_head.point_head.\1.\2",
            ),
            (r"(box_(?:head|predictor)\..+)", r"\1"),
        ],
    )
)
# All other parts have kept their names.
register_part(
    Part("detector", (_NAME,), "others", (), [(r"((?:backbone|proposal_generator)\..+|pixel_mean|pixel_std)", r"\1")])
)
