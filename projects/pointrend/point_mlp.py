"""The networks that predict one point at a time. PointRend, https://arxiv.org/abs/1912.08193, sections 3.3 and 4.

Plain torch. Shapes: R regions or images, P points of each, F channels of the maps, K classes, C output channels (K, or
1 if class-agnostic).
"""

import math

import torch
import torch.nn.functional as F
from fvcore.nn import weight_init
from torch import nn

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

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        """Predicts logits.

        Args:
            fine: features at the points (R, F, P).
            coarse: logits of the coarse prediction there (R, K, P).
            classes: (R,), to predict one class of each region only.

        Returns:
            (R, C, P); (R, 1, P) if there are classes.
        """
        x = torch.cat([fine, coarse], dim=1)
        for k in range(1, self.num_fc + 1):
            x = self.get_submodule(f"fc{k}")(x).relu_()
            if self.coarse_each_layer:
                x = torch.cat([x, coarse], dim=1)
        if classes is None or self.predictor.out_channels == 1:
            return self.predictor(x)
        weight, bias = self.predictor.weight[classes], self.predictor.bias[classes]  # type: ignore[index]
        return torch.baddbmm(bias[:, None, None], weight[:, :, 0][:, None], x)


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
            fine: features at the points (R, F, P).
            points: (R, P, 2) in [0, 1] of the box.
            parameters: (R, num_params).
            classes: (R,), to predict one class of each region only.

        Returns:
            (R, C, P); (R, 1, P) if there are classes.
        """
        parts = [self._encode(points)] if self.positions else []
        x = torch.cat([*parts, fine] if self.image_features else parts, dim=1)
        weights, biases = self._layers(parameters)
        if classes is not None and biases[-1].shape[1] > 1:
            rows = torch.arange(len(classes), device=classes.device)
            weights[-1], biases[-1] = weights[-1][rows, classes][:, None], biases[-1][rows, classes][:, None]
        for k, (weight, bias) in enumerate(zip(weights, biases)):
            x = torch.baddbmm(bias, weight, x)
            if k < len(weights) - 1:
                x = F.relu(x)
        return x

    def _encode(self, points: torch.Tensor) -> torch.Tensor:
        """Sines, then cosines, of positions in [-1, 1] along random directions: (R, P, 2) to (R, 256, P)."""
        angles = 2 * math.pi * ((2 * points - 1) @ self.positional_encoding_gaussian_matrix)  # type: ignore[operator]
        return torch.cat([angles.sin(), angles.cos()], dim=2).transpose(1, 2)

    def _layers(self, parameters: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Weights (R, outputs, inputs) and biases (R, outputs, 1) of every layer."""
        sizes = [outputs * inputs for outputs, inputs in self.shapes] + [outputs for outputs, _ in self.shapes]
        parts = parameters.split(sizes, dim=1)
        weights = [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes)]
        return weights, [part[:, :, None] for part in parts[len(self.shapes) :]]
