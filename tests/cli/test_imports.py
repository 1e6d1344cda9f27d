"""Modules are imported once, and the collector leaves them alone from then on."""

import subprocess
import sys

import pytest

_PROGRAM = """
import gc, sys
from densekit.cli.imports import import_engine
full = []
gc.callbacks.append(lambda phase, info: full.append(info["generation"]) if phase == "start" else None)
if {enabled!r} == "off":
    gc.disable()
full.clear()
import_engine()
assert not full, full
modules = gc.get_freeze_count()
import_engine()
assert gc.get_freeze_count() == modules > 100_000, gc.get_freeze_count()
assert gc.isenabled() == ({enabled!r} == "on")
assert all(f"densekit.projects.{{name}}" in sys.modules for name in sys.modules["densekit.projects"].PROJECTS)
"""


@pytest.mark.parametrize("enabled", ["on", "off"])
def test_nothing_is_collected_while_modules_are_imported(enabled):
    ended = subprocess.run([sys.executable, "-c", _PROGRAM.format(enabled=enabled)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
