"""CARAFE (https://arxiv.org/abs/1905.02188): content-aware upsampling in the pyramid, the mask head, or both.

The operator, its layer and the keys of the layer are below, in densekit, for any system to use.
"""

from . import weights as weights  # registers the names of its published checkpoints
