"""The names of OCR's head in the authors' checkpoints, a part of HRNet's segmentation code; the backbone has its own.

Nothing in the files tells with which align_corners they were trained: MODEL.SEM_SEG_HEAD.ALIGN_CORNERS has to be what
their recipe says.
"""

from densekit.weights.parts import Part, register_part
from densekit.weights.renaming import Rule

_BLOCK = r"ocr_distri_head\.object_context_block\."
_NEW = "context.attention."

# Norms are in a sequence of their own, behind ReLU's number: f_pixel.1.0 is the norm of f_pixel.0.
HEAD: list[Rule] = [
    (r"conv3x3_ocr\.([01]\..+)", r"pixels.\1"),
    (r"aux_head\.([01]\..+)", r"regions.0.\1"),
    (r"aux_head\.3\.(\w+)", r"regions.1.\1"),
    (r"cls_head\.(\w+)", r"predictor.\1"),
    (r"ocr_distri_head\.conv_bn_dropout\.0\.(\w+)", r"context.mix.0.\1"),
    (r"ocr_distri_head\.conv_bn_dropout\.1\.0\.(\w+)", r"context.mix.1.\1"),
]
for old, new in (("f_pixel", "query"), ("f_object", "key")):
    for step in range(2):
        HEAD += [
            (rf"{_BLOCK}{old}\.{2 * step}\.(\w+)", rf"{_NEW}{new}.{step}.0.\1"),
            (rf"{_BLOCK}{old}\.{2 * step + 1}\.0\.(\w+)", rf"{_NEW}{new}.{step}.1.\1"),
        ]
for old, new in (("f_down", "value"), ("f_up", "out")):
    HEAD += [
        (rf"{_BLOCK}{old}\.0\.(\w+)", rf"{_NEW}{new}.0.\1"),
        (rf"{_BLOCK}{old}\.1\.0\.(\w+)", rf"{_NEW}{new}.1.\1"),
    ]

register_part(
    Part("OCR", ("HRNet's segmentation code",), "head", (r"ocr_distri_head\.conv_bn_dropout\.0\.weight",), HEAD)
)
