"""The end of a process that has talked with others through ``torch.distributed``."""

import atexit
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def end_of_process() -> Iterator[None]:
    """Ends this process with the block: exit handlers run, the interpreter is not taken down.

    A thread of gloo may let go of the tensors of a collective call after the call has returned, for which it needs the
    interpreter's lock. Python before 3.14 ends a thread that asks for the lock too late; C++ then aborts the process,
    and a job that is done counts as failed. ``destroy_process_group`` does not wait for these threads while anything
    refers to a group, and caches of DTensor do, as does ``detectron2.utils.comm``.

    Errors other than SystemExit leave the block as ever.
    """
    code = 0
    try:
        yield
    except SystemExit as error:
        code = exit_code(error)
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    # As the interpreter does: pools of threads are told to stop, all threads but daemons end, then come the handlers.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # who reads it may be gone
            stream.flush()
    os._exit(code)


def exit_code(error: SystemExit) -> int:
    """The code with which a process ends that nobody keeps from it."""
    return error.code if isinstance(error.code, int) else int(error.code is not None)
