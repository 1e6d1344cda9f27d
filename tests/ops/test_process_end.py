"""Ends of processes that run their exit handlers and spare themselves the interpreter's shutdown."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import atexit, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from densekit.ops.process_end import end_of_process

class Global:
    def __del__(self):
        print("shutdown", flush=True)

kept = Global()
atexit.register(print, "handler")
pool = ThreadPoolExecutor()  # whose threads wait for more until the process ends
pool.submit(print, "pool").result()
threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
with end_of_process():
    print("block")
    {end}
print("after", flush=True)
"""


def ended(end: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", PROGRAM.format(end=end)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(75)", 75, ""),
        ("sys.exit('a reason')", 1, "a reason\n"),
        ("sys.exit(['an', 'object'])", 1, "['an', 'object']\n"),
    ],
)
def test_exit_handlers_run_and_the_code_is_kept(end, code, said):
    done = ended(end)
    assert (done.returncode, done.stdout.split(), done.stderr) == (code, ["pool", "block", "thread", "handler"], said)


def test_an_error_leaves_the_block_as_ever():
    done = ended("raise RuntimeError('a fault')")
    assert done.returncode == 1 and "RuntimeError: a fault" in done.stderr
    assert done.stdout.split() == ["pool", "block", "thread", "handler", "shutdown"]
