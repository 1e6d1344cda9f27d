"""densekit: published detection and segmentation systems for Detectron2's interfaces, with or without Detectron2."""

__version__ = "0.1.0"
