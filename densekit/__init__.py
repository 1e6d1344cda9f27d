"""densekit: published detection and segmentation systems for Detectron2's interfaces, with or without Detectron2."""

import warnings

__version__ = "0.1.0"

# fvcore compiles a loss with TorchScript when it is imported; newer torch tells every user so, who cannot change it.
warnings.filterwarnings("ignore", message=r".*torch\.jit\.script.*deprecated", category=Warning)
