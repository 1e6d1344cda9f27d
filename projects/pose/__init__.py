"""Human pose from the top down, with HRNet (https://arxiv.org/abs/1902.09212) or any other backbone."""

from . import mapper as mapper  # registers PoseMapper
from . import meta_arch as meta_arch  # registers TopDownPose
from . import weights as weights  # registers the vocabulary of its checkpoints
from .config import adapt_config, add_config, shrink

__all__ = ["adapt_config", "add_config", "shrink"]
