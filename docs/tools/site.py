"""Adds to the documentation what is made from the tree, and the navigation; a hook of mkdocs (``mkdocs.yml``).

Pages of ``docs`` that the list below does not name join the section "More", so that a new page needs no other change.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from docs.tools import api_pages, keys  # noqa: E402

# Section -> pages in their order; those that are not there are left out.
SECTIONS: dict[str, tuple[str, ...]] = {
    "Begin": ("index.md", "quickstart.md", "rcnn_story.md", "glossary.md"),
    "Data": ("own_data.md", "data_sets.md", "semantic_data.md", "what_files_look_like.md"),
    "Train": ("training.md", "fault_tolerance.md", "training_step.md", "pretrained_weights.md", "weight_licences.md"),
    "Evaluate": ("evaluation.md", "semantic_inference.md", "benchmarks.md", "model_sizes.md", "results.md"),
    "Predict": (
        "prediction.md",
        "python_api.md",
        "examples.md",
        "mass_inference.md",
        "inference_form.md",
        "export.md",
        "quantisation.md",
    ),
    "Move": ("hosts.md", "moving.md"),
    "Build": ("architecture.md", "adding_a_system.md", "contributing.md", "changes.md"),
}
# Files outside docs -> their pages.
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "datasets/README.md": "data_sets.md",
    "densekit/engine/README.md": "fault_tolerance.md",
    "projects/_template/README.md": "adding_a_system.md",
    "results/README.md": "results.md",
}


def sources() -> dict[Path, str]:
    """Returns every Markdown file that becomes a page -> the page's path in the site."""
    found = {ROOT / name: page for name, page in ELSEWHERE.items()}
    for path in sorted((ROOT / "projects").glob("[a-z]*/README.md")):
        found[path] = f"systems/{path.parent.name}.md"
    for path in sorted((ROOT / "docs").glob("*.md")):
        found[path] = path.name
    return found


def move_links(text: str, source: Path, page: str) -> str:
    """Returns the text with its relative links as they are from the page's place in the site.

    Args:
        text: Markdown.
        source: the file that it is of.
        page: the path of its page in the site.
    """
    pages = sources()

    def moved(match: re.Match[str]) -> str:
        name, anchor = match[1], match[2] or ""
        target = (source.parent / name).resolve()
        if target in pages:
            name = pages[target]
        elif target.is_relative_to(ROOT / "docs"):
            name = str(target.relative_to(ROOT / "docs"))
        else:
            return match[0]
        return f"]({'../' * page.count('/')}{name}{anchor})"

    return re.sub(r"\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)", moved, text)


def generated() -> Iterator[tuple[str, str]]:
    """Yields path and content of each page that is no file of ``docs``."""
    for source, page in sources().items():
        if source.parent != ROOT / "docs":
            yield page, move_links(source.read_text(), source, page)
    yield "reference/keys.md", keys.page()
    yield from api_pages.pages()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Sets the navigation."""
    pages = set(sources().values())
    nav: list[Any] = [{name: [page for page in listed if page in pages]} for name, listed in SECTIONS.items()]
    nav.insert(3, {"Systems": sorted(page for page in pages if page.startswith("systems/"))})
    listed = {page for section in nav for names in section.values() for page in names}
    if rest := sorted(pages - listed):
        nav.append({"More": rest})
    nav.append({"Reference": [{"Configuration keys": "reference/keys.md"}, *(page for page, _ in api_pages.pages())]})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made."""
    for page, content in generated():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Moves the links of the files in ``docs``, which lead to other folders of the tree."""
    path = ROOT / "docs" / page.file.src_uri
    return move_links(markdown, path, page.file.src_uri) if path.is_file() else markdown
