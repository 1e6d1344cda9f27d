"""The mask head of DETR (arXiv 2005.12872), section 4.4 and figure 8: a small pyramid upsamples attention maps.

Unlike the authors' code, what all queries of an image share is computed once: the first convolution of the head is
split into its part on the image's features and its part on the attention maps of a query. Outside training the queries
pass through the head in groups, so that memory does not grow with their number. Parameter names are the authors'.

B: images, Q: queries, D: width of the transformer, M: heads, H, W: last feature map, h, w: finest feature map.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densekit.ops.precision import at_least_single

from .detr import DETR, Encoded

_GROUPS = 8  # of every GroupNorm
_QUERIES_AT_ONCE = 16


class AttentionMaps(nn.Module):
    """Attention of each query to the encoded image, normalised over all heads and cells together.

    Args:
        dim: D.
        num_heads: M.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = nn.Linear(dim, dim)
        self.k_linear = nn.Linear(dim, dim)
        for layer in (self.q_linear, self.k_linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, queries: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """Attends.

        Args:
            queries: (B, Q, D).
            memory: (B, D, H, W).
            mask: (B, H, W) bool, True on the padding; None: there is none.

        Returns:
            (B, Q, M, H, W), which sums to one for every query.
        """
        q = self.q_linear(queries).unflatten(2, (self.num_heads, -1))  # (B, Q, M, D / M)
        k = self.k_linear(memory.flatten(2).transpose(1, 2)).unflatten(2, (self.num_heads, -1))  # (B, HW, M, D / M)
        scores = torch.einsum("bqmd,blmd->bqml", q * q.shape[-1] ** -0.5, k)
        if mask is not None:
            scores = scores.masked_fill(mask.flatten(1)[:, None, None], -torch.inf)
        maps = at_least_single(scores.flatten(2)).softmax(dim=-1)
        return maps.view(*scores.shape[:3], *memory.shape[-2:])


class MaskHead(nn.Module):
    """Convolutions with GroupNorm that double the resolution three times, each time adding a finer feature map.

    Args:
        dim: D.
        num_heads: M; D + M must be a multiple of 8, and D one of 128, for GroupNorm.
        channels: of the three feature maps before the last, coarsest first.
    """

    def __init__(self, dim: int, num_heads: int, channels: Sequence[int]) -> None:
        super().__init__()
        if (dim + num_heads) % _GROUPS or dim % (16 * _GROUPS):
            raise ValueError(
                f"the mask head normalises {_GROUPS} groups of {dim + num_heads} and of {dim // 16} channels: "
                "MODEL.DETR.HIDDEN_DIM must be a multiple of 128, and with NHEADS added a multiple of 8."
            )
        widths = [dim + num_heads, dim + num_heads, dim // 2, dim // 4, dim // 8, dim // 16]
        for index, (before, after) in enumerate(pairwise(widths), start=1):
            self.add_module(f"lay{index}", nn.Conv2d(before, after, 3, padding=1))
            self.add_module(f"gn{index}", nn.GroupNorm(_GROUPS, after))
        self.out_lay = nn.Conv2d(widths[-1], 1, 3, padding=1)
        for index, (fine, width) in enumerate(zip(channels, widths[2:-1]), start=1):
            self.add_module(f"adapter{index}", nn.Conv2d(fine, width, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, source: Tensor, maps: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Predicts masks.

        Args:
            source: (B, D, H, W), the features the transformer saw.
            maps: (B, Q, M, H, W), attention of the queries.
            features: three finer maps, coarsest first.

        Returns:
            (B, Q, h, w) logits, at the finest map's resolution.
        """
        first: Any = self.lay1
        kernels = first.weight.split((source.shape[1], maps.shape[2]), dim=1)
        shared = F.conv2d(source, kernels[0], first.bias, padding=1)
        adapted = [self.get_submodule(f"adapter{index}")(x) for index, x in enumerate(features, start=1)]
        step = maps.shape[1] if self.training else _QUERIES_AT_ONCE
        masks = [self._masks(shared, part, kernels[1], adapted) for part in maps.split(step, dim=1)]
        return torch.cat(masks, dim=1)

    def _masks(self, shared: Tensor, maps: Tensor, kernel: Tensor, adapted: Sequence[Tensor]) -> Tensor:
        queries = maps.shape[1]

        def for_each_query(x: Tensor) -> Tensor:  # (B, C, ...) to (BQ, C, ...)
            return x[:, None].expand(-1, queries, -1, -1, -1).flatten(0, 1)

        x = F.conv2d(maps.flatten(0, 1), kernel, padding=1) + for_each_query(shared)
        x = F.relu(self.get_submodule("gn1")(x))
        x = F.relu(self.get_submodule("gn2")(self.get_submodule("lay2")(x)))
        for index, fine in enumerate(adapted, start=3):
            x = for_each_query(fine) + F.interpolate(x, size=fine.shape[-2:], mode="nearest")
            x = F.relu(self.get_submodule(f"gn{index}")(self.get_submodule(f"lay{index}")(x)))
        return self.out_lay(x)[:, 0].unflatten(0, (-1, queries))


class SegmentingDETR(nn.Module):
    """DETR with a mask for every query.

    Args:
        detr: the detector.
        channels: of the backbone's feature maps, finest first; the last four are used.
        frozen: train the mask head alone.

    Attributes:
        missing: why a frozen detector has no weights yet; a checkpoint of the whole model, as that of an earlier part
            of the same training, may still bring them.

    Raises:
        ValueError: the backbone has fewer than four feature maps.
    """

    missing: FileNotFoundError | None = None

    def __init__(self, detr: DETR, *, channels: Sequence[int], frozen: bool) -> None:
        super().__init__()
        if len(channels) < 4:
            raise ValueError(
                f"the mask head needs four feature maps and the backbone gives {len(channels)}; for a ResNet set "
                "MODEL.RESNETS.OUT_FEATURES ['res2', 'res3', 'res4', 'res5']."
            )
        self.frozen = frozen
        self.detr = detr.requires_grad_(False) if frozen else detr
        if frozen:
            detr.register_load_state_dict_pre_hook(self._before_loading)
        dim, heads = detr.transformer.embed_dim, detr.transformer.num_heads
        self.bbox_attention = AttentionMaps(dim, heads)
        self.mask_head = MaskHead(dim, heads, list(channels)[-2:-5:-1])

    def train(self, mode: bool = True) -> "SegmentingDETR":
        """The host's; the batch statistics of a frozen detector stay as they are."""
        super().train(mode)
        if self.frozen:
            for module in self.detr.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def _before_loading(self, detr: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """A frozen detector would never adapt to another backbone."""
        own = [name for name in state if name.startswith(prefix)]
        if not all(name.startswith(f"{prefix}backbone.") for name in own):
            self.missing = None
        elif own:
            raise ValueError(
                "MODEL.WEIGHTS has a backbone alone, which would replace that of the trained detector in "
                "MODEL.DETR.FROZEN_WEIGHTS: set MODEL.WEIGHTS ''."
            )

    def forward(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """As :meth:`~projects.detr.detr.DETR.forward`, with ``pred_masks`` (B, Q, h, w), logits on the padded image.

        Raises:
            FileNotFoundError: the frozen detector has no weights.
        """
        if self.missing is not None:
            raise self.missing
        encoded = self.detr.encode(images, sizes)
        return self.detr.predict(encoded) | {"pred_masks": self.masks(encoded)}

    def masks(self, encoded: Encoded) -> Tensor:
        """The masks (B, Q, h, w) of all queries."""
        maps = self.bbox_attention(encoded.states[-1], encoded.memory, encoded.mask)
        return self.mask_head(encoded.source, maps.to(encoded.source.dtype), encoded.features[-2:-5:-1])
