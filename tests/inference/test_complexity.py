"""Parameters and operations that are counted without computing them."""

from pathlib import Path

import torch
from torch import nn
from torchvision.ops import DeformConv2d

from densekit.config_list import list_configs
from densekit.inference.complexity import count_complexity, count_operations
from tests.contract.shrinking import ROOT, shrunken


def test_products_are_counted_by_their_formulas():
    convolution = nn.Conv2d(6, 8, (3, 5), stride=2, padding=(1, 2), groups=2)
    assert count_operations(convolution, torch.zeros(1, 6, 10, 12)) == 5 * 6 * 8 * 3 * 15
    assert count_operations(nn.Linear(7, 9), torch.zeros(4, 5, 7)) == 4 * 5 * 7 * 9
    assert count_operations(nn.ReLU(), torch.zeros(3)) == 0


def test_attention_and_deformable_convolutions_are_products_too():
    class Attention(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    assert count_operations(Attention(), torch.zeros(1, 2, 11, 4)) == 2 * (2 * 11 * 11 * 4)

    class Deformed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = DeformConv2d(4, 6, 3, padding=1)

        def forward(self, x):
            return self.layer(x, torch.zeros(1, 18, *x.shape[2:]))

    assert count_operations(Deformed(), torch.zeros(1, 4, 5, 7)) == 5 * 7 * 6 * 4 * 9


def test_a_detector_is_counted_with_its_heads(monkeypatch):
    cfg = shrunken(ROOT / "configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    counted = {"heads": 0, "all": 0}

    def look(module, args, output):
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            per_result = module.weight[0].numel()
            size = args[0] if isinstance(module, nn.ConvTranspose2d) else output
            counted["all"] += size.numel() * per_result
            counted["heads"] += len(output) > 1

    with nn.modules.module.register_module_forward_hook(look):
        size = count_complexity(cfg, (96, 128))
    assert size.operations == counted["all"] and not size.reason
    assert counted["heads"] > 6  # the box head and the mask head saw several regions


def test_published_sizes_are_of_configurations_that_are_shipped():
    sized = [one for one in list_configs() if one.published_size]
    assert len(sized) > 30 and all(" at " in one.published_size for one in sized)
    stated = [path for path in Path(ROOT, "configs").rglob("*.yaml") if "Size as published" in path.read_text()]
    assert len(stated) == len(sized)  # each sentence is understood
