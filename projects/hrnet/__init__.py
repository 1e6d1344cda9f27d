"""HRNet: high-resolution representations (https://arxiv.org/abs/1908.07919), as a backbone and as a segmenter."""

from . import backbone as backbone  # registers build_hrnet_backbone, build_hrnet_v2_backbone, build_hrnet_v2p_backbone
from . import head as head  # registers HRNetV2Head
from . import neck as neck  # registers build_hrnet_classification_neck
from . import weights as weights  # registers the vocabularies of its checkpoints
from .config import add_config, shrink

__all__ = ["add_config", "shrink"]
