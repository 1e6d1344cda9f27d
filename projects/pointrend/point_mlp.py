"""The networks that predict one point at a time. PointRend, https://arxiv.org/abs/1912.08193, sections 3.3 and 4.

Plain torch. Shapes: R regions or images, P points of each, F channels of the maps, K classes, C output channels (K, or
1 if class-agnostic).
"""

import math
from functools import cached_property

import torch
import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import nn

from densekit.layers.points import bilinear_taps

POSITION_FREQUENCIES = 128  # of the implicit head; their sines and cosines make 256 channels


class PointMLP(nn.Module):
    """Linear layers with ReLU, shared by all points, on fine-grained features and coarse predictions.

    Args:
        in_channels: F.
        coarse_channels: of the coarse prediction, mostly K.
        out_channels: C.
        fc_dim: width of the hidden layers.
        num_fc: how many there are.
        coarse_each_layer: whether the coarse prediction enters every layer, the predictor too, or the first only.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        coarse_channels: int,
        out_channels: int,
        fc_dim: int = 256,
        num_fc: int = 3,
        coarse_each_layer: bool = True,
    ) -> None:
        super().__init__()
        self.num_fc = num_fc
        self.coarse_each_layer = coarse_each_layer
        width = in_channels + coarse_channels
        for k in range(1, num_fc + 1):
            layer = nn.Conv1d(width, fc_dim, kernel_size=1)
            weight_init.c2_msra_fill(layer)
            self.add_module(f"fc{k}", layer)
            width = fc_dim + (coarse_channels if coarse_each_layer else 0)
        self.predictor = nn.Conv1d(width, out_channels, kernel_size=1)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)  # type: ignore[arg-type]

    def forward(
        self, fine: torch.Tensor, points: torch.Tensor, coarse: torch.Tensor, classes: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Predicts logits.

        Args:
            fine: features at the points (R, P, F).
            points: (R, P, 2) in [0, 1] of the coarse maps.
            coarse: logits of the coarse prediction (R, K, h, w).
            classes: (R,), to predict one class of each region only.

        Returns:
            (R, C, P); (R, 1, P) if there are classes.
        """
        coarse_part = _CoarsePart(coarse, points)
        x = fine
        for k in range(1, self.num_fc + 1):
            layer = self.get_submodule(f"fc{k}")
            with_coarse = coarse_part if k == 1 or self.coarse_each_layer else None
            x = _linear(x, layer.weight[:, :, 0], layer.bias, with_coarse).relu_()  # type: ignore[index,arg-type]
        weight, bias = self.predictor.weight[:, :, 0], self.predictor.bias
        with_coarse = coarse_part if self.num_fc == 0 or self.coarse_each_layer else None
        if classes is None or len(weight) == 1:
            return _linear(x, weight, bias, with_coarse).transpose(1, 2)  # type: ignore[arg-type]
        return self._of_class(x, classes, with_coarse)

    def _of_class(self, x: torch.Tensor, classes: torch.Tensor, coarse_part: "_CoarsePart | None") -> torch.Tensor:
        """The predictor's output for one class of each region, (R, P, inputs) to (R, 1, P)."""
        weight, bias = self.predictor.weight[classes, :, 0], self.predictor.bias[classes, None]  # type: ignore[index]
        own, of_coarse = weight.split([x.shape[2], weight.shape[1] - x.shape[2]], dim=1)
        logits = torch.bmm(x, own[:, :, None])[:, :, 0] + bias  # (R, P)
        if coarse_part is not None:
            logits = logits + coarse_part.of_each(of_coarse)
        return logits[:, None]


class _CoarsePart:
    """Part of a linear layer at the points that reads the coarse prediction.

    A linear layer of sampled values is the sample of the linear layer's values. Where the coarse map has fewer cells
    than there are points, the layer is therefore applied to the cells.
    """

    def __init__(self, coarse: torch.Tensor, points: torch.Tensor) -> None:
        self.regions, self.count = points.shape[:2]
        self.taps = bilinear_taps(points, *coarse.shape[-2:])
        self.rows = coarse.permute(0, 2, 3, 1).flatten(0, 2)  # (R * h * w, K)
        self.cells = coarse.shape[-2:].numel()  # h * w
        self.by_cell = self.cells <= self.count

    @cached_property
    def values(self) -> torch.Tensor:
        """The coarse prediction at the points (R, P, K)."""
        return self.taps.sum(self.rows)

    def of_all(self, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """A layer with weights (D, K) and biases (D,) that all regions share, (R, P, D)."""
        if self.by_cell:
            return self.taps.sum(self.rows @ weight.t(), bias)
        return F.linear(self.values, weight, bias)

    def of_each(self, weight: torch.Tensor) -> torch.Tensor:
        """One output with weights (R, K) of each region, (R, P)."""
        per_region = self.rows.unflatten(0, (self.regions, self.cells))  # (R, h * w, K)
        cells = torch.bmm(per_region, weight[:, :, None]).flatten(0, 1)
        return self.taps.sum(cells)[:, :, 0]


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, coarse_part: _CoarsePart | None) -> torch.Tensor:
    """A layer (D, inputs) on points (R, P, F) and, behind them, their coarse prediction: (R, P, D)."""
    if coarse_part is None:
        return F.linear(x, weight, bias)
    own, of_coarse = weight.split([x.shape[2], weight.shape[1] - x.shape[2]], dim=1)
    added = coarse_part.of_all(of_coarse, bias)
    x, own = x.to(added.dtype), own.to(added.dtype)  # which differ under autocast, and it leaves addmm_ alone
    return added.flatten(0, 1).addmm_(x.flatten(0, 1), own.t()).view_as(added)  # in the memory of what is added


class ImplicitPointMLP(nn.Module):
    """The same with parameters that are predicted for every region; points are told apart by where they are.

    Args:
        in_channels: F.
        out_channels: C.
        fc_dim: width of the hidden layers.
        num_fc: how many there are, at least 1.
        image_features: whether points see the maps.
        positions: whether they see their own position.

    Raises:
        ValueError: points that see nothing, or no hidden layer.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        fc_dim: int = 256,
        num_fc: int = 3,
        image_features: bool = True,
        positions: bool = True,
    ) -> None:
        super().__init__()
        if not (image_features or positions):
            raise ValueError(
                "MODEL.IMPLICIT_POINTREND: turn on IMAGE_FEATURE_ENABLED or POS_ENC_ENABLED, or points see nothing."
            )
        if num_fc < 1:
            raise ValueError(f"MODEL.POINT_HEAD.NUM_FC is {num_fc}; the implicit point head needs a hidden layer.")
        self.image_features = image_features
        self.positions = positions
        if positions:
            # Random frequencies, drawn once and kept with the weights (Fourier features, arXiv 2006.10739).
            self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, POSITION_FREQUENCIES))
        width = (in_channels if image_features else 0) + (2 * POSITION_FREQUENCIES if positions else 0)
        widths = [width, *[fc_dim] * num_fc, out_channels]
        self.shapes = list(zip(widths[1:], widths))  # (outputs, inputs) of every layer

    @property
    def num_params(self) -> int:
        """Parameters of one region: the weights of all layers, then the biases of all layers."""
        return sum(outputs * inputs + outputs for outputs, inputs in self.shapes)

    def forward(
        self, fine: torch.Tensor, points: torch.Tensor, parameters: torch.Tensor, classes: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Predicts logits.

        Args:
            fine: features at the points (R, P, F).
            points: (R, P, 2) in [0, 1] of the box.
            parameters: (R, num_params).
            classes: (R,), to predict one class of each region only.

        Returns:
            (R, C, P); (R, 1, P) if there are classes.
        """
        parts = [self._encode(points)] if self.positions else []
        x = torch.cat([*parts, fine] if self.image_features else parts, dim=2)
        weights, biases = self._layers(parameters)
        if classes is not None and weights[-1].shape[1] > 1:
            rows = torch.arange(len(classes), device=classes.device)
            weights[-1], biases[-1] = weights[-1][rows, classes][:, None], biases[-1][rows, classes][:, None]
        for k, (weight, bias) in enumerate(zip(weights, biases)):
            x = torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
            if k < len(weights) - 1:
                x = x.relu_()
        return x.transpose(1, 2)

    def _encode(self, points: torch.Tensor) -> torch.Tensor:
        """Sines, then cosines, of positions in [-1, 1] along random directions: (R, P, 2) to (R, P, 256)."""
        angles = 2 * math.pi * ((2 * points - 1) @ self.positional_encoding_gaussian_matrix)  # type: ignore[operator]
        return torch.cat([angles.sin(), angles.cos()], dim=2)

    def _layers(self, parameters: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Weights (R, outputs, inputs) and biases (R, outputs) of every layer."""
        sizes = [outputs * inputs for outputs, inputs in self.shapes] + [outputs for outputs, _ in self.shapes]
        parts = parameters.split(sizes, dim=1)
        weights = [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes)]
        return weights, list(parts[len(self.shapes) :])
