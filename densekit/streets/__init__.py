"""The built-in data set: synthetic street scenes with exact labels in COCO's and Cityscapes' formats."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densekit.streets.write import write_streets

__all__ = ["write_streets"]


def __getattr__(name: str) -> Any:
    """Imports the generator when it is first asked for: trainings read what it has written."""
    if name != "write_streets":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from densekit.streets.write import write_streets

    return write_streets
