"""A small file can claim billions of pixels and fill the memory, so its header is asked before it is decoded.

Pillow refuses more than 178,956,970 pixels, and so do all readers here. ``DENSEKIT_MAX_PIXELS`` in the environment is
another limit, for genuine pictures of that size; it holds in every process that imports this module.
"""

import os
import re

from PIL import Image, UnidentifiedImageError

VARIABLE = "DENSEKIT_MAX_PIXELS"

# What Pillow raises about a file that cannot be read, whatever is wrong with it.
UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError)

if os.environ.get(VARIABLE, "").isdigit():
    # Pillow warns from here on, and refuses more than twice as many; rounded up, so that the limit itself is read.
    Image.MAX_IMAGE_PIXELS = (int(os.environ[VARIABLE]) + 1) // 2


def readable(error: Exception) -> str:
    """An error of Pillow in words; without the stream object that it shows instead of a file."""
    numbers = [int(number) for number in re.findall(r"(\d+) pixels", str(error))]
    if isinstance(error, Image.DecompressionBombError) and len(numbers) == 2:
        pixels, limit = numbers
        return (
            f"its header claims {pixels:,} pixels, and more than {limit:,} are not decoded, since such a file may be "
            f"made to fill the memory. If it is genuine, set {VARIABLE}={pixels} in the environment"
        )
    return "it is no image" if isinstance(error, UnidentifiedImageError) else str(error)
