"""The head of a top-down pose network on one map of a backbone: heat maps of keypoints."""

import torch.nn.functional as F
from torch import Tensor, nn


class PoseHead(nn.Module):
    """A 1x1 convolution, after deconvolutions that each double the size where the map is too coarse.

    Without them it is HRNet's head (arXiv 1902.09212, section 3), with three on a map of stride 32 that of "Simple
    Baselines" (arXiv 1804.06208, section 2).

    Args:
        in_channels: Of the map.
        num_keypoints: K.
        num_deconvs: How many there are.
        channels: Their width.
    """

    def __init__(self, *, in_channels: int, num_keypoints: int, num_deconvs: int = 0, channels: int = 256) -> None:
        super().__init__()
        self.deconvs = nn.ModuleList()
        self.norms = nn.ModuleList()
        for _ in range(num_deconvs):
            self.deconvs.append(nn.ConvTranspose2d(in_channels, channels, 4, stride=2, padding=1, bias=False))
            self.norms.append(nn.BatchNorm2d(channels))
            in_channels = channels
        self.predictor = nn.Conv2d(in_channels, num_keypoints, 1)
        for layer in (*self.deconvs, self.predictor):
            nn.init.normal_(layer.get_parameter("weight"), std=0.001)
        nn.init.zeros_(self.predictor.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        """Returns maps (P, K, H * 2^num_deconvs, W * 2^num_deconvs) for (P, in_channels, H, W)."""
        for deconv, norm in zip(self.deconvs, self.norms):
            x = F.relu(norm(deconv(x)))
        return self.predictor(x)
