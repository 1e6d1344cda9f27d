"""Weight files: reading them without running them, renaming what is in them, saying what did not fit."""

from densekit.weights import classifiers as classifiers  # registers the vocabularies that systems share
from densekit.weights import image_classifier as image_classifier
from densekit.weights import maskrcnn_benchmark as maskrcnn_benchmark
from densekit.weights import openmmlab as openmmlab
from densekit.weights.converting import convert_file
from densekit.weights.formats import read_checkpoint
from densekit.weights.names import adapt_names, pixels_of
from densekit.weights.pixels import mismatch
from densekit.weights.report import LoadReport
from densekit.weights.writing import write_checkpoint

__all__ = ["LoadReport", "adapt_names", "convert_file", "mismatch", "pixels_of", "read_checkpoint", "write_checkpoint"]
