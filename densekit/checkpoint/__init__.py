"""Checkpoints on either host: safe to load, checked, found again when the newest is damaged."""

from densekit.checkpoint.checkpointer import Checkpointer

__all__ = ["Checkpointer"]
