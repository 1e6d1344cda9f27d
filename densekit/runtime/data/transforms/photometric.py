"""Random changes of colour: contrast, brightness, saturation and AlexNet's lighting."""

import numpy as np
from fvcore.transforms.transform import BlendTransform, Transform

from densekit.runtime.data.transforms.augmentation import Augmentation

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, for RGB

# Principal components of the colours of ImageNet, RGB in [0, 1] (Krizhevsky et al., 2012, section 4.1).
_EIGEN_VALUES = np.array([0.2175, 0.0188, 0.0045])
_EIGEN_VECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)  # fmt: skip


class _RandomIntensity(Augmentation):
    """Blends the image with a reference: intensity 1 keeps it, below 1 goes towards the reference, above 1 away."""

    def __init__(self, intensity_min: float, intensity_max: float) -> None:
        """Sets the interval that the intensity is drawn from, uniformly."""
        self.intensity_min, self.intensity_max = intensity_min, intensity_max

    def _reference(self, image: np.ndarray) -> np.ndarray | float:
        raise NotImplementedError

    def get_transform(self, image: np.ndarray) -> Transform:
        intensity = np.random.uniform(self.intensity_min, self.intensity_max)
        return BlendTransform(self._reference(image), src_weight=1 - intensity, dst_weight=intensity)


class RandomContrast(_RandomIntensity):
    """Changes contrast: the reference is the mean of the image."""

    def _reference(self, image: np.ndarray) -> float:
        return image.mean()


class RandomBrightness(_RandomIntensity):
    """Changes brightness: the reference is black."""

    def _reference(self, image: np.ndarray) -> float:
        return 0


class RandomSaturation(_RandomIntensity):
    """Changes saturation of an RGB image: the reference is its grey version."""

    def _reference(self, image: np.ndarray) -> np.ndarray:
        _check_colour(image, self)
        return image.dot(_LUMA)[:, :, None]


class RandomLighting(Augmentation):
    """Adds a random colour along the principal components of ImageNet to an RGB image (AlexNet)."""

    def __init__(self, scale: float) -> None:
        """Sets the standard deviation of the three weights."""
        self.scale = scale

    def get_transform(self, image: np.ndarray) -> Transform:
        _check_colour(image, self)
        weights = np.random.normal(scale=self.scale, size=3)
        return BlendTransform(_EIGEN_VECTORS.dot(weights * _EIGEN_VALUES), src_weight=1.0, dst_weight=1.0)


def _check_colour(image: np.ndarray, augmentation: Augmentation) -> None:
    if image.shape[-1] != 3:
        raise ValueError(f"{type(augmentation).__name__} needs an RGB image, not an array of shape {image.shape}.")
