"""Reading and resizing of training images at several times the speed of Pillow, with its pixels.

JPEG files are decoded by OpenCV, which uses the same library as Pillow and spares the copies between. What is not an
ordinary colour photograph is left to Pillow: other formats, grey and CMYK pictures, files that EXIF turns,
files that break off. Bilinear enlarging is OpenCV's, which rounds its weights more coarsely: no value differs from
Pillow's by more than 1 of 255. OpenCV has no bilinear shrinking that averages over all pixels, as Pillow's does and
what detectors were trained with; torch has, and differs in about one value of a thousand, by 1.

Evaluation does not come here: its pixels are Pillow's own.
"""

import io

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from densekit.d2.data import transforms as T
from densekit.d2.utils.file_io import PathManager
from densekit.data.pictures import exif_orientation, read_picture

__all__ = ["TrainingInput", "as_planes", "read_training_image"]

_JPEG_END = b"\xff\xd9"


def read_training_image(path: str, format: str, bits: int = 0) -> np.ndarray:
    """Reads an image as :func:`~densekit.data.pictures.read_picture` does.

    Args:
        path: the file.
        format: as for the host: "BGR", "RGB", "L" ...
        bits: how many bits of a channel of 16 are used; 0 takes what the file says.

    Returns:
        (H, W, C) array, uint8 in 0..255 for the formats named.

    Raises:
        OSError: it is no image or breaks off.
    """
    if format in ("BGR", "RGB"):
        with PathManager.open(path, "rb") as stream:
            content = stream.read()
        if _is_plain_photo(content):
            image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            if image is not None:
                return image if format == "BGR" else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return read_picture(path, format, bits)


def _is_plain_photo(content: bytes) -> bool:
    """Tells whether a file is a whole, upright JPEG of three colours; Pillow also refuses pictures of giant size.

    OpenCV fills the rest of a file that breaks off with grey, in some versions without a word.
    """
    if not content.startswith(b"\xff\xd8\xff") or not content.endswith(_JPEG_END):
        return False
    try:
        with Image.open(io.BytesIO(content)) as header:
            return header.mode == "RGB" and exif_orientation(header) == 1
    except Exception:  # a damaged header or EXIF block: Pillow decides
        return False


class TrainingInput(T.AugInput):
    """An image under augmentation; bilinear resizing and mirroring of colour pictures take the fast way.

    A transform with a method ``apply_labels`` moves label maps by it, and masks of instances, as everywhere, by
    ``apply_segmentation``: what comes from outside a picture is the ignored label in one and nothing in the other.

    Attributes:
        crop_class: The class of ``sem_seg`` that a crop is to lie around; None for any place.
    """

    def __init__(
        self,
        image: np.ndarray,
        *,
        boxes: np.ndarray | None = None,
        sem_seg: np.ndarray | None = None,
        crop_class: int | None = None,
    ) -> None:
        super().__init__(image, boxes=boxes, sem_seg=sem_seg)
        self.crop_class = crop_class

    def transform(self, tfm: T.Transform) -> None:
        """Applies the transform to the image, the boxes and the label map."""
        changed = _changed(self.image, tfm)
        self.image = tfm.apply_image(self.image) if changed is None else changed
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = getattr(tfm, "apply_labels", tfm.apply_segmentation)(self.sem_seg)


def _changed(image: np.ndarray, tfm: T.Transform) -> np.ndarray | None:
    """The image after a transform that has a fast way here; None for others."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        return None
    if type(tfm) is T.HFlipTransform:
        return cv2.flip(image, 1)
    if type(tfm) is T.ResizeTransform and tfm.interp == Image.Resampling.BILINEAR and image.shape[:2] == (tfm.h, tfm.w):
        return resize(image, tfm.new_h, tfm.new_w)
    return None


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes an (H, W, 3) uint8 image bilinearly, with antialiasing where it shrinks."""
    if height >= image.shape[0] and width >= image.shape[1]:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    own = np.require(image, requirements=["C", "W"])  # Pillow's arrays are read-only
    planes = torch.from_numpy(own).permute(2, 0, 1)[None]  # (1, 3, H, W), channels last
    smaller = F.interpolate(planes, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return smaller[0].permute(1, 2, 0).numpy()


def as_planes(image: np.ndarray) -> Tensor:
    """An (H, W, C) image as a (C, H, W) tensor, which travels from worker processes through shared memory."""
    return torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
