"""A trained detector for the second stage of training, in which only the mask head learns."""

from torch import nn

from densekit.checkpoint.sources import local_weights
from densekit.weights import adapt_names, read_checkpoint

_PREFIX = "detr."  # of the detector inside the model that the host builds


def load_detector(detector: nn.Module, path: str) -> None:
    """Fills a detector from a checkpoint of densekit, of the authors or of their Detectron2 wrapper.

    Args:
        detector: the part without the mask head.
        path: ``MODEL.DETR.FROZEN_WEIGHTS``.

    Raises:
        ValueError: the checkpoint lacks weights, or some have another shape; the message names them.
    """
    names = {_PREFIX + name: value for name, value in detector.state_dict().items()}
    weights = adapt_names(read_checkpoint(local_weights(path)), names)
    unfit = [name for name, value in names.items() if name not in weights or weights[name].shape != value.shape]
    if unfit:
        raise ValueError(
            f"MODEL.DETR.FROZEN_WEIGHTS {path} is not a checkpoint of this detector: {len(unfit)} of its "
            f"{len(names)} entries are missing or of another shape, {', '.join(unfit[:5])} among them."
        )
    detector.load_state_dict({name.removeprefix(_PREFIX): weights[name] for name in names})
