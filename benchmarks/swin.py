"""Swin's inference against a straightforward window attention with explicit masks: same weights, same image.

The two take turns in one process. The other side computes products of queries and keys, adds the bias and then the mask
to them, and takes the softmax, one step after the other, as the published code does. Example::

    python benchmarks/swin.py --rounds 5 --threads 2
    python benchmarks/swin.py --config configs/swin/mask_rcnn_swin_T_FPN_1x.yaml
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from common import print_row, spent
from torch import Tensor, nn

from densekit.config import load_config
from densekit.d2.modeling import build_model
from densekit.projects.swin.blocks import WindowAttention

CONFIG = Path(__file__).resolve().parents[1] / "configs/swin/mask_rcnn_swin_T_FPN_1x.yaml"


class StepByStep(WindowAttention):
    """The same attention with its mask added explicitly."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        windows, tokens, channels = x.shape
        qkv = self.qkv(x).reshape(windows, tokens, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * (channels // self.heads) ** -0.5, qkv[1], qkv[2]
        products = q @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        products = products + bias.view(tokens, tokens, -1).permute(2, 0, 1).contiguous()
        if mask is not None:
            products = products.view(-1, len(mask), self.heads, tokens, tokens) + mask[:, None]
            products = products.view(-1, self.heads, tokens, tokens)
        return self.proj((products.softmax(dim=-1) @ v).transpose(1, 2).reshape(windows, tokens, channels))


def step_by_step(model: nn.Module, on: bool) -> None:
    """Switches every attention of a model to one side; the parameters stay."""
    for module in model.modules():
        if isinstance(module, WindowAttention):
            module.__class__ = StepByStep if on else WindowAttention


def attention_inputs(model: nn.Module, maps: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Describes what the attention of the first shifted block of each stage gets: windows and mask."""
    found: list[tuple[Tensor, Tensor]] = []
    shifted = [next(block for block in stage.blocks if block.shift) for stage in stages(model)]
    hooks = [
        block.attn.register_forward_pre_hook(lambda module, args: found.append((args[0].clone(), args[1])))
        for block in shifted
    ]
    model.backbone(maps)
    for hook in hooks:
        hook.remove()
    return found


def stages(model: nn.Module) -> list[nn.Module]:
    """The stages of the Swin below a pyramid, or of the backbone itself."""
    return list(getattr(model.backbone, "bottom_up", model.backbone).layers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("opts", nargs="*", help="KEY VALUE pairs")
    parser.add_argument("--config", default=str(CONFIG), help="a config with Swin")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after one to warm up")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1216), metavar=("HEIGHT", "WIDTH"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = build_model(load_config(args.config, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *args.opts])).eval()
    image = torch.randint(0, 256, (3, *args.size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    maps = model.preprocess_image([{"image": image}]).tensor
    actions = {"backbone": lambda: model.backbone(maps), "whole model": lambda: model([{"image": image}])}
    print(f"{'':22}{'fused s':>12}{'explicit s':>12}{'ratio':>9}")
    with torch.inference_mode():
        for index, (windows, mask) in enumerate(attention_inputs(model, maps)):
            attention = next(block.attn for block in stages(model)[index].blocks if block.shift)
            actions = {f"attention, stage {index + 1}": partial(attention, windows, mask), **actions}
        for label, action in actions.items():
            wall, cpu = [], []
            for turn in range(args.rounds + 1):
                times = {}
                for explicit in (True, False) if turn % 2 else (False, True):
                    step_by_step(model, explicit)
                    times[explicit] = spent(action)
                if turn:
                    wall.append((times[False][0], times[True][0]))
                    cpu.append((times[False][1], times[True][1]))
            print_row(f"{label}, wall", wall)
            print_row(f"{label}, processor", cpu)


if __name__ == "__main__":
    main()
