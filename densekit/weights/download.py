"""Weight files from the web: fetched once, in full, and with the content that their names or the user promise.

A sum comes from the user, ``URL#sha256=<64 hex digits>``, or from the file's name: torch's ``name-<8 hex digits>.pth``
begins the SHA-256, and Detectron2's model zoo ends names in six digits of the MD5.
"""

import hashlib
import http.client
import logging
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from densekit.files.atomic import atomic_write

_BLOCK = 1 << 20
_ZOO = "dl.fbaipublicfiles.com"
_TIMEOUT = 60  # seconds without any answer

# (name of the sum, hexadecimal digits that it begins with)
Promise = tuple[str, str]


def split_sum(name: str) -> tuple[str, Promise | None]:
    """Takes ``#sha256=...`` off the end of a file's name or URL.

    Raises:
        ValueError: It is no SHA-256.
    """
    place, mark, digest = name.rpartition("#sha256=")
    if not mark:
        return name, None
    if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise ValueError(f"{name}: what follows #sha256= must be 64 hexadecimal digits, not {digest!r}.")
    return place, ("sha256", digest.lower())


def is_url(name: str) -> bool:
    """Tells whether the name is the address of a file on a server."""
    return name.startswith(("https://", "http://"))


def cached_path(url: str) -> Path:
    """Returns the local copy's path for a URL: below the folder of torch.hub, which TORCH_HOME moves.

    Raises:
        ValueError: The URL names no file.
    """
    parts = urllib.parse.urlsplit(url)
    names = [name for name in urllib.parse.unquote(parts.path).split("/") if name]
    if not parts.hostname or not names or ".." in names or any("\\" in name or "\0" in name for name in names):
        raise ValueError(f"{url} is not the address of a file.")
    return Path(torch.hub.get_dir(), "checkpoints", parts.netloc.rpartition("@")[2].replace(":", "_"), *names)


def fetch(url: str, promise: Promise | None = None) -> Path:
    """The local copy of a weight file, which is downloaded if there is none yet.

    Args:
        url: ``https://`` or ``http://``.
        promise: what the content's sum begins with; the sum that the name tells is checked as well.

    Raises:
        ValueError: The content is not what was promised or not all of it came. Nothing of it is left then.
        FileNotFoundError: The server does not answer or has no such file.
    """
    target = cached_path(url)
    promises = [found for found in (promise, _promised_by_name(url)) if found]
    if target.is_file():
        problem = broken_promise(target, promises)
        if problem is None:
            return target
        logging.getLogger(__name__).warning(f"{target} is downloaded anew: {problem}")
        target.unlink()
    logging.getLogger(__name__).info(f"Downloading {url} to {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target, "wb") as file:
        sums = _download(url, file.write)
        if problem := _compare(sums, promises):
            raise ValueError(f"{url} was downloaded and removed: {problem}")
    if not promises:
        logging.getLogger(__name__).warning(
            f"Nobody says what this file should be; to have it checked from now on, write {url}#sha256={sums['sha256']}"
        )
    return target


def _download(url: str, write: Callable[[bytes], object]) -> dict[str, str]:
    """Writes the content of a URL; returns its sums."""
    digests, size = _digests(("sha256", "md5")), 0
    request = urllib.request.Request(url, headers={"User-Agent": "densekit"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            _check_answer(url, answer)
            expected = answer.headers.get("Content-Length")
            while block := answer.read(_BLOCK):
                write(block)
                for digest in digests.values():
                    digest.update(block)
                size += len(block)
    except urllib.error.HTTPError as error:
        raise FileNotFoundError(
            f"{url} cannot be downloaded: the server answers {error.code} {error.reason}."
        ) from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise FileNotFoundError(
            f"{url} cannot be downloaded: {reason}. Download it on another machine and give its path."
        ) from error
    except http.client.IncompleteRead as error:
        raise ValueError(f"{url}: the connection ended early; nothing of it is kept. Try again.") from error
    if not size or (expected is not None and size != int(expected)):
        raise ValueError(f"{url}: {size} of {expected or 'some'} bytes came; nothing of it is kept. Try again.")
    return {name: digest.hexdigest() for name, digest in digests.items()}


def _check_answer(url: str, answer: http.client.HTTPResponse) -> None:
    """Refuses an answer that has left https for http on its way, and pages for people."""
    final = answer.geturl()
    if url.startswith("https://") and not final.startswith("https://"):
        raise ValueError(f"{url} leads to {final}, which anyone on the way can change.")
    if answer.headers.get_content_type() == "text/html":
        raise ValueError(f"{url} is a page for people and no weight file. Give the address of the file itself.")


def _promised_by_name(url: str) -> Promise | None:
    parts = urllib.parse.urlsplit(url)
    name = parts.path.rpartition("/")[2]
    if found := re.search(r"-([0-9a-f]{8,64})\.\w+$", name):
        return "sha256", found[1]
    if parts.hostname == _ZOO and (found := re.search(r"_([0-9a-f]{6})\.pkl$", name)):
        return "md5", found[1]
    return None


def broken_promise(file: Path, promises: list[Promise]) -> str | None:
    """Describes the mismatch of a file with its known sums; ``None`` if they agree."""
    if not promises:
        return None
    digests = _digests(name for name, _ in promises)
    with file.open("rb") as content:
        while block := content.read(_BLOCK):
            for digest in digests.values():
                digest.update(block)
    return _compare({name: digest.hexdigest() for name, digest in digests.items()}, promises)


def _digests(names: Iterable[str]) -> dict[str, Any]:
    return {name: hashlib.new(name, usedforsecurity=False) for name in names}


def _compare(sums: dict[str, str], promises: list[Promise]) -> str | None:
    for name, begins in promises:
        if not sums[name].startswith(begins):
            return f"its {name} is {sums[name]} and should begin with {begins}."
    return None
