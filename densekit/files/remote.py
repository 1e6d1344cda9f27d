"""Files behind URLs (``s3://``, ``gs://``, ``memory://`` ...), through fsspec and its library for each scheme."""

import re
from typing import Any

import fsspec

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")  # one letter before the colon is a drive of Windows


def is_url(name: str) -> bool:
    """Tells whether a name has a scheme such as ``s3://`` and is no path."""
    return _URL.match(name) is not None


def file_system(url: str) -> tuple[Any, str]:
    """Returns fsspec's file system for a URL, and the name of the file there.

    Raises:
        ValueError: The scheme is unknown, or its library is not installed.
    """
    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{url} cannot be opened: {error}") from error


def read_url(url: str) -> bytes:
    """Returns all bytes of the file behind a URL, in one request.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As :func:`file_system`.
    """
    files, name = file_system(url)
    return files.cat_file(name)
