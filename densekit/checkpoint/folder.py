"""The folder of a run's checkpoints: which there are, whether they are whole, and which may go.

``SHA256SUMS`` lists them, oldest first, in the format of ``sha256sum --check``; ``last_checkpoint`` names the newest.
"""

import hashlib
import re
import zipfile
from collections.abc import Collection
from pathlib import Path

from densekit.files.atomic import atomic_write
from densekit.weights import read_checkpoint

_SUMS = "SHA256SUMS"
_POINTER = "last_checkpoint"
_PERIODIC = re.compile(r"model_\d{7,}\.pth")
_BEST = "model_best.pth"  # weights alone: nothing to resume from


class CheckpointFolder:
    """Checkpoints in a folder and their checksums.

    Args:
        path: the folder; it need not exist for reading.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def sums(self) -> dict[str, str]:
        """File name -> SHA-256 in hexadecimal, oldest first."""
        try:
            lines = (self.path / _SUMS).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        pairs = (line.split(maxsplit=1) for line in lines if len(line.split(maxsplit=1)) == 2)
        return {name.lstrip("*"): digest for digest, name in pairs}

    def begin(self, name: str) -> None:
        """Forgets the sum of a file that is about to be replaced, so that no sum is ever that of another content."""
        sums = self.sums()
        if sums.pop(name, None):
            self._write_sums(sums)

    def finish(self, name: str) -> None:
        """Notes the sum of a file that has been written."""
        self._write_sums(self.sums() | {name: sha256(self.path / name)})

    def name_newest(self, name: str) -> None:
        """Makes a file that has been written and summed the one that is resumed."""
        with atomic_write(self.path / _POINTER) as file:
            file.write(name)

    def newest_first(self) -> list[Path]:
        """The checkpoints that exist: the one that ``last_checkpoint`` names, then the others by age."""
        pointer = self.path / _POINTER
        named = [pointer.read_text(encoding="utf-8").strip()] if pointer.is_file() else []
        unlisted = sorted(self.path.glob("model_*.pth"), key=_age, reverse=True)
        names = dict.fromkeys([*named, *reversed(self.sums()), *(file.name for file in unlisted)])
        return [self.path / name for name in names if name != _BEST and (self.path / name).is_file()]

    def problem(self, file: Path) -> str | None:
        """Describes the damage of a checkpoint; ``None`` if it is whole.

        A file without a sum, from another program or a run that was killed before it noted one, is read instead, with
        the check sums that archives carry and torch does not look at.
        """
        listed = self.sums().get(file.name)
        if listed is not None:
            return None if sha256(file) == listed else f"its content does not match {_SUMS}"
        try:
            read_checkpoint(file)
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    damaged = archive.testzip()
                return None if damaged is None else f"its entry {damaged} is damaged"
        except (ValueError, zipfile.BadZipFile) as error:
            return str(error)
        return None

    def prune(self, keep: int, stay: Collection[str] = ()) -> list[Path]:
        """Deletes all periodic checkpoints but the ``keep`` newest ones; the one that would be resumed stays.

        Args:
            keep: how many.
            stay: names of others that are not deleted.

        Returns:
            The deleted files.
        """
        present = self.newest_first()
        periodic = [file for file in present if _PERIODIC.fullmatch(file.name)]
        deleted = [file for file in periodic[keep:] if file != present[0] and file.name not in stay]
        for file in deleted:
            file.unlink(missing_ok=True)
        if deleted:
            gone = {file.name for file in deleted}
            self._write_sums({name: digest for name, digest in self.sums().items() if name not in gone})
        return deleted

    def _write_sums(self, sums: dict[str, str]) -> None:
        with atomic_write(self.path / _SUMS) as file:
            file.writelines(f"{digest}  {name}\n" for name, digest in sums.items())


def _age(file: Path) -> float:
    """Returns the time of writing, for sorting; a file that is deleted meanwhile counts as the oldest."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def sha256(file: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    with file.open("rb") as content:
        digest = hashlib.sha256()
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
