"""``PathManager``: opens local paths, URLs and ``detectron2://`` names alike.

A remote file is fetched when a caller opens it, and cached by iopath; nothing is downloaded unasked.
"""

from typing import IO, Any

from iopath.common.file_io import HTTPURLHandler, PathHandler
from iopath.common.file_io import PathManager as _PathManager

PathManager = _PathManager()


class ModelZooHandler(PathHandler):
    """Maps ``detectron2://name``, as published configs write their weights, to the server that holds them."""

    _PREFIX = "detectron2://"
    _SERVER = "https://dl.fbaipublicfiles.com/detectron2/"

    def _url(self, path: str) -> str:
        return self._SERVER + path.removeprefix(self._PREFIX)

    def _get_supported_prefixes(self) -> list[str]:
        return [self._PREFIX]

    def _get_local_path(self, path: str, **kwargs: Any) -> str:
        return PathManager.get_local_path(self._url(path), **kwargs)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        return PathManager.open(self._url(path), mode, buffering=buffering, **kwargs)


PathManager.register_handler(HTTPURLHandler())
PathManager.register_handler(ModelZooHandler())
