"""The protocol of augmentations: a policy looks at the input, draws random numbers and returns a transform."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList


class Augmentation:
    """A policy that decides on a transform.

    A subclass writes ``get_transform``; the names of its parameters say what it needs of the input: ``image``,
    ``boxes`` or ``sem_seg`` of :class:`AugInput`, or any attribute of an own input class. A single parameter is the
    image, whatever its name. Randomness comes from ``numpy.random``, which loaders seed in each worker.
    """

    input_args: tuple[str, ...] | None = None

    def get_transform(self, *args: Any) -> Transform:
        """Returns the transform for this input."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_transform.")

    def __call__(self, aug_input: Any) -> Transform:
        """Changes the input in place and returns the transform that did it, for what else belongs to the image."""
        if self.input_args is None:
            self.input_args = self._wanted_inputs()
        missing = [name for name in self.input_args if not hasattr(aug_input, name)]
        if missing:
            raise AttributeError(
                f"{type(self).__name__}.get_transform needs {', '.join(missing)}, which {type(aug_input).__name__} "
                "does not have."
            )
        transform = self.get_transform(*(getattr(aug_input, name) for name in self.input_args))
        if not isinstance(transform, Transform):
            raise TypeError(f"{type(self).__name__}.get_transform returned {transform!r}, which is not a Transform.")
        aug_input.transform(transform)
        return transform

    def _wanted_inputs(self) -> tuple[str, ...]:
        parameters = inspect.signature(self.get_transform).parameters.values()
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
            raise TypeError(
                f"{type(self).__name__}.get_transform takes a variable number of arguments, so its inputs cannot be "
                "told from their names. Set `input_args` on the class, or name the parameters."
            )
        return ("image",) if len(parameters) == 1 else tuple(p.name for p in parameters)

    def _init(self, params: dict[str, Any] | None = None) -> None:
        """Takes the constructor's ``locals()`` as attributes: the shorthand that augmentations are written with."""
        for name, value in (params or {}).items():
            if name != "self" and not name.startswith("_"):
                setattr(self, name, value)

    def _rand_range(self, low: float = 1.0, high: float | None = None, size: Any = None) -> Any:
        """Draws uniformly from [low, high), or from [0, low) if only one bound is given."""
        least, most = (0.0, low) if high is None else (low, high)
        return np.random.uniform(least, most, size)

    def __repr__(self) -> str:
        """Shows the constructor's arguments that differ from their defaults."""
        shown = []
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            value = getattr(self, name, parameter.default)
            if name != "self" and value is not parameter.default:
                shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class _Always(Augmentation):
    """A fixed transform in the place of a policy."""

    input_args = ()

    def __init__(self, tfm: Transform) -> None:
        self.tfm = tfm

    def get_transform(self, *args: Any) -> Transform:
        return self.tfm

    def __repr__(self) -> str:
        return repr(self.tfm)


def as_augmentation(value: Augmentation | Transform) -> Augmentation:
    """Returns the policy itself, or one that always gives the transform."""
    if isinstance(value, Augmentation):
        return value
    if isinstance(value, Transform):
        return _Always(value)
    raise TypeError(f"Expected an Augmentation or a Transform, not {value!r}.")


class AugmentationList(Augmentation):
    """Applies augmentations one after the other, each deciding on what the ones before it left."""

    def __init__(self, augs: Sequence[Augmentation | Transform]) -> None:
        self.augs = [as_augmentation(aug) for aug in augs]

    def __call__(self, aug_input: Any) -> TransformList:
        return TransformList([aug(aug_input) for aug in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(map(repr, self.augs))}]"


class AugInput:
    """Input of augmentations, changed by them in place: an image, and boxes and label map where a policy needs them."""

    def __init__(
        self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None
    ) -> None:
        """Takes the arrays, without copies.

        Args:
            image: (H, W) or (H, W, C), uint8 in 0..255 or floating point.
            boxes: (N, 4) xyxy, pixels.
            sem_seg: (H, W) integer labels.

        Raises:
            ValueError: The image is no array of two or three axes, or of an integer type other than uint8.
        """
        if not isinstance(image, np.ndarray) or image.ndim not in (2, 3):
            got = f"shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"AugInput needs an (H, W) or (H, W, C) numpy array as image, not {got}.")
        if np.issubdtype(image.dtype, np.integer) and image.dtype != np.uint8:
            raise ValueError(f"AugInput needs a uint8 or floating point image, not {image.dtype}.")
        self.image, self.boxes, self.sem_seg = image, boxes, sem_seg

    def transform(self, tfm: Transform) -> None:
        """Applies the transform to everything held here."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations: Sequence[Augmentation | Transform]) -> TransformList:
        """Applies them in turn and returns the transforms."""
        return AugmentationList(augmentations)(self)


def apply_augmentations(
    augmentations: Sequence[Augmentation | Transform], inputs: np.ndarray | AugInput
) -> tuple[Any, TransformList]:
    """Applies augmentations to an image or to an :class:`AugInput`.

    Returns:
        The image or the input, whichever was given, and the transforms.
    """
    wrapped = AugInput(inputs) if isinstance(inputs, np.ndarray) else inputs
    transforms = wrapped.apply_augmentations(augmentations)
    return (wrapped.image if isinstance(inputs, np.ndarray) else wrapped), transforms
