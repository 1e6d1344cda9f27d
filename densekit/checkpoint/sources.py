"""Where weights come from: a file, a file with a sum that it must have, or a server."""

from pathlib import Path

from densekit.d2.utils import comm
from densekit.d2.utils.file_io import PathManager
from densekit.weights.download import broken_promise, cached_path, fetch, is_url, split_sum
from densekit.weights.zoo import zoo_url


def is_remote(name: str) -> bool:
    """Whether reading these weights would download them."""
    url = zoo_url(split_sum(name)[0])
    return is_url(url) and not cached_path(url).is_file()


def local_weights(name: str) -> str:
    """The path of a weight file on this machine; to be called in all processes, the first of each machine downloads.

    Args:
        name: a path, an ``https://`` or ``http://`` address or a name of Detectron2's model zoo or of its catalogue,
            ``detectron2://...`` and ``catalog://...``; each may end in ``#sha256=`` and the sum that the file has.

    Raises:
        ValueError: the content is not what was promised, or the catalogue has no such name.
        FileNotFoundError: the file cannot be downloaded.
    """
    place, promise = split_sum(name)
    url = zoo_url(place)
    if not is_url(url):
        path = PathManager.get_local_path(place)
        if promise and Path(path).is_file() and (problem := broken_promise(Path(path), [promise])):
            raise ValueError(f"The weights {path} are not the expected ones: {problem}")
        return path
    error: Exception | None = None
    if comm.get_local_rank() == 0:
        try:
            fetch(url, promise)
        except (ValueError, OSError) as problem:
            error = problem
    errors = [problem for problem in comm.all_gather(error) if problem is not None]
    if errors:
        raise errors[0]
    return str(cached_path(url))
