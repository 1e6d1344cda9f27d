"""The two flavours of bilinear enlarging, told apart in checkpoints."""

from typing import Any

import torch
from torch import Tensor, nn


class AlignCorners(nn.Module):
    """An entry of a model's weights that says how they were trained to enlarge maps.

    Weights of one flavour run with the other without an error, and are some points of mIoU worse; they are refused.

    Args:
        value: Whether the centers of the corner pixels stay in their places, as ``align_corners`` of torch.
    """

    value: Tensor

    def __init__(self, value: bool) -> None:
        super().__init__()
        self.expected = value
        self.register_buffer("value", torch.tensor(int(value), dtype=torch.uint8))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        stored = state_dict.pop(prefix + "value", None)  # files of other programs do not say
        if stored is not None and bool(stored) != self.expected:
            raise ValueError(
                f"The weights were trained with align_corners {bool(stored)}, and MODEL.SEM_SEG_HEAD.ALIGN_CORNERS is "
                f"{self.expected}. Set MODEL.SEM_SEG_HEAD.ALIGN_CORNERS {bool(stored)}."
            )
