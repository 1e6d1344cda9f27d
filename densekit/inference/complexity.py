"""Counts parameters and floating point operations of a model that is not trained, in a second or two.

The model runs as it predicts, but its convolutions and matrix products are not computed: their results are drawn from
random numbers of the right shape. So a detector finds as many proposals and objects as it may, and its heads are
counted in full, as publications do with 1000 proposals and 100 objects.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry, register_flop_formula
from tqdm import tqdm

from densekit.config import load_config
from densekit.config_list import ConfigFacts
from densekit.d2.config import CfgNode
from densekit.d2.modeling import build_model

__all__ = ["Complexity", "Counted", "count_complexity", "count_each", "count_operations"]

_USUAL = (800, 1216)  # height and width in pixels of a picture where nothing is published
_POOL = 1_000_003  # random numbers that results are filled with; a prime, so that rows and channels differ


@dataclass(frozen=True)
class Complexity:
    """The size of a model.

    Attributes:
        parameters: numbers that training may change, frozen ones among them; shared ones count once.
        operations: multiply-adds of one picture; None where they could not be counted.
        reason: why they could not; "" where they could.
    """

    parameters: int
    operations: int | None
    reason: str = ""


@dataclass(frozen=True)
class Counted:
    """A shipped configuration with its size here.

    Attributes:
        facts: what its file says.
        picture: height and width of the counted picture, as published or 800 x 1216.
        complexity: of the model.
    """

    facts: ConfigFacts
    picture: tuple[int, int]
    complexity: Complexity


class _Counting(TorchDispatchMode):
    """Counts the products that torch has formulas for, and answers them with random numbers of the right shape."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self._numbers = torch.randn(_POOL, generator=torch.Generator().manual_seed(0))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, formula = kwargs or {}, flop_registry.get(func.overloadpacket)
        if formula is None:
            return func(*args, **kwargs)
        shapes = func(*tree_map_only(Tensor, _shape_alone, args), **tree_map_only(Tensor, _shape_alone, kwargs))
        self.operations += formula(*args, **kwargs, out_val=shapes) // 2  # torch counts a multiply-add as two
        return tree_map_only(Tensor, self._filled, shapes)

    def _filled(self, shape: Tensor) -> Tensor:
        size = shape.numel()
        return self._numbers.repeat(-(-size // _POOL))[:size].view(shape.shape).to(shape.dtype)


def _shape_alone(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


@register_flop_formula(torch.ops.torchvision.deform_conv2d)
def _deformable_flops(images: Any, weight: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * prod(out_shape) * prod(weight[1:])


def count_operations(model: nn.Module, inputs: Any) -> int:
    """Counts the multiply-adds of convolutions, matrix products and attention in one call of a model.

    Args:
        model: in eval mode, on the CPU.
        inputs: its only argument.
    """
    counting = _Counting()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counting:  # the kernel that is made of matrix products
        model(inputs)
    return counting.operations


def count_complexity(cfg: CfgNode, size: tuple[int, int]) -> Complexity:
    """Builds the model of a configuration and counts.

    Args:
        cfg: frozen or not; its weights are not read.
        size: height and width in pixels of the picture, as the model gets it.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", "cpu"
    model: Any = build_model(cfg).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    height, width = size
    picture = {
        "image": torch.zeros(len(cfg.MODEL.PIXEL_MEAN), height, width),
        "height": height,
        "width": width,
        "file_name": "",
        "image_id": 0,
        "hole": torch.zeros(height, width, dtype=torch.bool),
    }
    try:
        return Complexity(parameters, count_operations(model, [picture]))
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return Complexity(
            parameters, None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )


def count_each(found: Iterable[ConfigFacts]) -> Iterator[Counted]:
    """Counts configurations one after the other; models that several of them have are counted once.

    Args:
        found: the configurations.
    """
    known: dict[tuple[str, tuple[int, int]], Complexity] = {}
    for facts in tqdm(list(found), desc="counting", unit="config", disable=None):
        sides = re.findall(r"\d+", facts.published_size.partition(" at ")[2])
        picture = (int(sides[0]), int(sides[1])) if sides else _USUAL
        cfg = load_config(facts.name, [])
        key = (cfg.MODEL.dump(), picture)
        if key not in known:
            known[key] = count_complexity(cfg, picture)
        yield Counted(facts, picture, known[key])
