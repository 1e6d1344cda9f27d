"""Parts of models that several systems share, written on the seam for both hosts. The import registers them."""

from densekit.modeling import dilated_resnet as dilated_resnet  # build_dilated_resnet_backbone
from densekit.modeling import fpn as fpn  # build_fpn_backbone
from densekit.modeling import image_classifier as image_classifier  # ImageClassifier
from densekit.modeling import mask_head as mask_head  # UpsamplerMaskHead
from densekit.modeling import resnet as resnet  # build_deep_stem_resnet_backbone
from densekit.modeling import semantic_fpn as semantic_fpn  # SemanticFPNHead
