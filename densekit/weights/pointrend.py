"""Checkpoints of Detectron2's PointRend from before its heads were one mask head; newer ones need no renaming."""

from collections.abc import Collection

from densekit.weights.renaming import Layout, Rule, Weights, rename

_COARSE = r"roi_heads\.(?:mask_coarse_head|mask_head\.coarse_head)\."
_RULES: list[Rule] = [
    (_COARSE + r"coarse_mask_fc(\d+)\.(\w+)", r"roi_heads.mask_head.coarse_head.fc\1.\2"),
    (
        _COARSE + r"(fc\d+|prediction|reduce_(?:channel|spatial)_dim_conv)\.(\w+)",
        r"roi_heads.mask_head.coarse_head.\1.\2",
    ),
    (
        r"roi_heads\.(?:mask_point_head|mask_head\.point_head)\.(fc\d+|predictor)\.(\w+)",
        r"roi_heads.mask_head.point_head.\1.\2",
    ),
    # All other parts have kept their names.
    (r"((?:backbone|proposal_generator|roi_heads\.box_head|roi_heads\.box_predictor)\..+|pixel_mean|pixel_std)", r"\1"),
]


def _matches(names: Collection[str]) -> bool:
    old = (
        "roi_heads.mask_coarse_head.",
        "roi_heads.mask_point_head.",
        "roi_heads.mask_head.coarse_head.coarse_mask_fc",
    )
    return any(name.startswith(old) for name in names)


def _convert(weights: Weights) -> Weights:
    return rename(weights, _RULES, OLD_POINTREND.name)


OLD_POINTREND = Layout("Detectron2's early PointRend", _matches, _convert)
