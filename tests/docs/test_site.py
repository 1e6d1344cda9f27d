"""The documentation builds strictly, without the network, and its links lead somewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("mkdocs", reason="needs pip install 'densekit[docs]'")
pytest.importorskip("material", reason="needs pip install 'densekit[docs]'")
pytest.importorskip("mkdocstrings", reason="needs pip install 'densekit[docs]'")

ROOT = Path(__file__).resolve().parents[2]


class Page(HTMLParser):
    """Gathers what a page refers to, and the names of its places."""

    def __init__(self, text: str):
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.places |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and values.get("href"):
            self.links.add(values["href"])
        loads = tag in ("script", "img") or (tag == "link" and values.get("rel") == "stylesheet")
        if loads and (address := values.get("src") or values.get("href")):
            self.loaded.add(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, Page]:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "DENSEKIT_HOST": "builtin", "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return {path: Page(path.read_text()) for path in folder.rglob("*.html") if path.name != "404.html"}


def test_links_lead_to_files_and_places_that_exist(site):
    wrong = []
    for path, page in site.items():
        for link in page.links | page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            lost = parts.fragment and target in site and unquote(parts.fragment) not in site[target].places
            if not target.exists() or lost:
                wrong.append(f"{path.name}: {link}")
    assert len(site) > 40 and not wrong, wrong[:20]


def test_pages_load_nothing_from_elsewhere(site):
    loaded = {address for page in site.values() for address in page.loaded}
    assert loaded and not [address for address in loaded if urlsplit(address).netloc]


def test_every_system_and_every_page_is_reached_from_the_front(site):
    front = next(path for path in site if path.name == "index.html")
    linked = {(front.parent / urlsplit(link).path).resolve() for link in site[front].links if not urlsplit(link).netloc}
    assert {path.resolve() for path in site} - linked <= {front.resolve()}
    systems = {path.stem for path in site if path.parent.name == "systems"}
    assert systems == {path.parent.name for path in (ROOT / "projects").glob("[a-z]*/README.md")}


def test_links_of_the_sources_that_leave_the_site_lead_to_files():
    from docs.tools.site import sources

    wrong = []
    for source in sources():
        for name in re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", source.read_text()):
            if not (source.parent / name).exists():
                wrong.append(f"{source.relative_to(ROOT)}: {name}")
    assert not wrong, wrong
