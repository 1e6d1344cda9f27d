"""Training and evaluation on either host: set-up, trainer, writers, start of processes."""

from densekit.engine.errors import DataError, user_errors
from densekit.engine.launch import launch
from densekit.engine.run import run
from densekit.engine.setup import setup
from densekit.engine.trainer import Trainer

__all__ = ["DataError", "Trainer", "launch", "run", "setup", "user_errors"]
