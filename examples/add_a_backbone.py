"""Add a backbone of your own and train any detector on it, without a change to densekit or Detectron2.

A backbone is a module that turns pictures into named feature maps and says their channels and strides. It is registered
by name, so that a configuration can choose it. The data is that of ``train_on_own_data.py``.
"""

# %% The network: five convolutions of stride 2
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

import densekit
from densekit.d2.layers import ShapeSpec
from densekit.d2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from densekit.d2.modeling.backbone.fpn import LastLevelMaxPool

STEPS = 300
DATA, RUN = Path("shapes"), Path("output/own_backbone")


class FiveConvolutions(Backbone):
    """Feature maps c2 to c5 at strides 4 to 32."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        widths = [in_channels, width, width, 2 * width, 4 * width, 8 * width]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.ReLU())
            for before, after in pairwise(widths)
        )
        self.channels = {f"c{level}": widths[level] for level in range(2, 6)}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) to one map a level, (N, C, H / stride, W / stride)."""
        maps = {}
        for level, block in enumerate(self.blocks, 1):
            x = block(x)
            maps[f"c{level}"] = x
        return {name: maps[name] for name in self.channels}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map, from which heads are built."""
        return {name: ShapeSpec(channels=count, stride=2 ** int(name[1])) for name, count in self.channels.items()}


# %% Its name in configurations: here with a feature pyramid on top, whose maps are p2 to p6
@BACKBONE_REGISTRY.register()
def build_five_convolutions_fpn(cfg, input_shape):
    """FPN of MODEL.FPN on :class:`FiveConvolutions`."""
    bottom_up = FiveConvolutions(input_shape.channels, width=16)
    return FPN(
        bottom_up,
        in_features=list(bottom_up.output_shape()),
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
    )


# %% Look at it before training: names, strides, sizes
from densekit.d2 import model_zoo

CONFIG = "quickstart/faster_rcnn_R_18_FPN_bccd.yaml"
cfg = model_zoo.get_config(CONFIG)
backbone = build_five_convolutions_fpn(cfg, ShapeSpec(channels=3))
for name, features in backbone(torch.zeros(1, 3, 128, 160)).items():
    print(name, tuple(features.shape), "stride", backbone.output_shape()[name].stride)

# %% Train Faster R-CNN on it
results = densekit.train(
    CONFIG,
    {
        "MODEL.BACKBONE.NAME": "build_five_convolutions_fpn",
        "MODEL.WEIGHTS": "",
        "SOLVER.MAX_ITER": STEPS,
        "SOLVER.IMS_PER_BATCH": 2,
        "INPUT.MIN_SIZE_TRAIN": (120,),
        "INPUT.MIN_SIZE_TEST": 120,
    },
    train_data={"form": "coco", "json": DATA / "train.json", "images": DATA / "train"},
    val_data={"form": "coco", "json": DATA / "val.json", "images": DATA / "val"},
    output_dir=RUN,
)
print(f"AP {results['bbox']['AP']:.1f}, AP50 {results['bbox']['AP50']:.1f}")

# To keep it: a folder in projects/, as projects/_template/README.md says, and every configuration can name it.
