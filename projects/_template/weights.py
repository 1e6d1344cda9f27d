"""Names of parameters in published checkpoints, by part; the template's are invented, in mmdetection's vocabulary.

Only what is the system's own stands here: the backbone, the pyramid and the RPN of such a file are known already.
"""

from densekit.weights.openmmlab import DETECTORS
from densekit.weights.parts import Part, register_part

register_part(
    Part(
        "template box head",
        (DETECTORS,),
        "bbox_head",
        (r"template_fcs\.0\.weight",),
        [
            (r"fc_cls\.(\w+)", r"box_predictor.cls_score.\1"),
            (r"fc_reg\.(\w+)", r"box_predictor.bbox_pred.\1"),
            *[(rf"template_fcs\.{k}\.(\w+)", rf"box_head.mlp.fc{k + 1}.\1") for k in range(2)],
        ],
    )
)
