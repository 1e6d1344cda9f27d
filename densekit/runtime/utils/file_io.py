"""``PathManager``: opens local paths, URLs and the short names of published weights alike.

A remote file is fetched when a caller opens it, and cached by iopath; nothing is downloaded unasked.
"""

from typing import IO, Any

from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as _PathManager

from densekit.weights.zoo import PREFIXES, zoo_url

PathManager = _PathManager()


class ModelZooHandler(PathHandler):
    """Maps the names by which published configs call their weights to the server that holds them."""

    def _get_supported_prefixes(self) -> list[str]:
        return list(PREFIXES)

    def _get_local_path(self, path: str, **kwargs: Any) -> str:
        return PathManager.get_local_path(zoo_url(path), **kwargs)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        return PathManager.open(zoo_url(path), mode, buffering=buffering, **kwargs)


PathManager.register_handler(HTTPURLHandler())
PathManager.register_handler(ModelZooHandler())
