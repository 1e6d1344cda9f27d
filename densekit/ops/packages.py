"""Packages that only some users need."""

__all__ = ["MissingPackageError"]


class MissingPackageError(ImportError):
    """An optional package is not installed; the message has the command that installs it, and is all that users see."""
