"""The configurations that densekit brings along, found by their names from any folder; no torch is needed."""

import difflib
import os
from pathlib import Path

__all__ = ["config_folder", "find_config", "shipped_config", "shipped_configs"]

_SHOWN = 3


def config_folder() -> Path:
    """Returns the folder of the shipped files: inside the installed package, or beside it in a checkout.

    Raises:
        FileNotFoundError: The installation has none.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "_base_").is_dir():
            return folder
    raise FileNotFoundError(
        f"{package / 'configs'} does not exist: the installation is damaged; install densekit again."
    )


def shipped_configs() -> list[str]:
    """Returns the names of all systems' configurations, ``<system>/<file>.yaml``, sorted.

    Files below a folder ``_base_`` are parts of others, and those of ``_template`` are for copying.
    """
    names = (path.relative_to(config_folder()) for path in config_folder().rglob("*.yaml"))
    return sorted(name.as_posix() for name in names if not any(part.startswith("_") for part in name.parts[:-1]))


def shipped_config(name: str) -> str | None:
    """Returns the path of a shipped file, parts of others included, or None; ``name`` may begin with ``configs/``."""
    relative = os.path.normpath(name.removeprefix("configs/"))
    if os.path.isabs(relative) or relative.startswith(os.pardir):
        return None
    path = config_folder() / relative
    return str(path) if path.is_file() else None


def find_config(name: str | os.PathLike[str]) -> str:
    """Finds a configuration: a file, seen from the working directory, else a shipped one of that name.

    Args:
        name: A path, a URL or the name of a shipped file.

    Returns:
        A path or the URL.

    Raises:
        FileNotFoundError: There is neither; the message names the nearest shipped ones.
    """
    name = os.path.expanduser(os.fspath(name))
    if os.path.isfile(name) or "://" in name:
        return name
    if found := shipped_config(name):
        return found
    raise FileNotFoundError(f"Config file '{name}' does not exist.{nearest_shipped(name)}")


def nearest_shipped(name: str) -> str:
    """Returns a sentence with the shipped names that look like ``name``; "" where none does."""
    known = shipped_configs()
    asked = name.removeprefix("configs/")
    by_file = {known_name.rpartition("/")[2]: known_name for known_name in known}
    near = difflib.get_close_matches(asked, known, n=_SHOWN, cutoff=0.6)
    near += [by_file[file] for file in difflib.get_close_matches(asked.rpartition("/")[2], by_file, _SHOWN, cutoff=0.6)]
    near = list(dict.fromkeys(near))[:_SHOWN]
    return f" The nearest that densekit has: {', '.join(near)}; `densekit configs` lists all." if near else ""
