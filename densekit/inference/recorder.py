"""The thread that writes while the model works on: it waits for the device, encodes masks, writes JSON and PNG."""

import queue
import threading
from collections.abc import Sequence
from types import TracebackType

from densekit.engine.errors import DataError
from densekit.inference.journal import Part
from densekit.inference.outputs import Kept, LineMaker
from densekit.inference.reading import Loaded, stamp

_WAITING = 4  # batches that may wait: more would hold the device's memory, fewer would stop the model now and then


class Recorder:
    """Takes outputs and writes the lines of their pictures, in a thread of its own.

    Args:
        part: the file of this process.
        maker: of the lines.
        done: the indices that earlier runs have finished; a batch is predicted whole, but recorded once.
    """

    def __init__(self, part: Part, maker: LineMaker, done: set[int]) -> None:
        self._part, self._maker, self._done = part, maker, done
        self._queue: queue.Queue[tuple[Loaded, Sequence[Kept]] | None] = queue.Queue(_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)

    def __enter__(self) -> "Recorder":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        self._part.close()
        if error is None:
            self._raise()

    def put(self, loaded: Loaded, kept: Sequence[Kept]) -> None:
        """Records a picture; waits while too many are waiting.

        Raises:
            Exception: What the thread met with an earlier picture.
        """
        self._raise()
        if loaded.picture.index not in self._done:
            self._queue.put((loaded, kept))

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue  # emptied all the same, for the other thread must not wait for room
            try:
                self._record(*item)
            except ValueError as error:
                self._error = DataError(f"{item[0].picture.path}: {error}")
            except Exception as error:
                self._error = error

    def _record(self, loaded: Loaded, kept: Sequence[Kept]) -> None:
        if loaded.problem:
            self._part.append({"index": loaded.picture.index, "problem": loaded.problem})
            return
        self._part.append({**self._maker.line(loaded, kept), "stamp": stamp(loaded.picture.path)})
