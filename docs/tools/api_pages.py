"""Lists the pages of the Python reference: one for each package, filled from the docstrings by mkdocstrings."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The interface first, then what systems are built of.
PACKAGES = ("checkpoint", "data", "deploy", "evaluation", "files", "formats", "inference", "layers", "metrics")
PACKAGES += ("modeling", "ops", "report", "solver", "weights")
INTERFACE = """# densekit

::: densekit.inference.predictor.Predictor
::: densekit.inference.predictor.load_model
::: densekit.deploy.optimize
::: densekit.data.own.register_dataset
::: densekit.api.train
::: densekit.api.evaluate
::: densekit.model_zoo
"""


def pages() -> Iterator[tuple[str, str]]:
    """Yields path and Markdown of each page."""
    yield "reference/densekit.md", INTERFACE
    for package in PACKAGES:
        modules = sorted((ROOT / "densekit" / package).rglob("*.py"))
        names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules if path.name[0] != "_"]
        lines = "\n".join(f"::: {name}\n" for name in names)
        yield f"reference/{package}.md", f"# densekit.{package}\n\n{lines}"
