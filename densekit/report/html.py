"""A small builder of HTML that escapes by default, and the frame of every page."""

import json
import math
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import Any

__all__ = ["Markup", "el", "join", "page", "svg", "table"]

# Nothing is loaded from anywhere, whatever a name that slipped through might ask for.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_VOID = ("br", "hr", "img", "input", "meta")

Child = Any  # Markup as it is, None as nothing, an iterable as its members, anything else as escaped text


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def el(tag: str, *children: Child, **attributes: Any) -> Markup:
    """Builds one element.

    Args:
        tag: its name.
        children: text is escaped.
        attributes: ``class_`` for ``class``, ``data_kind`` for ``data-kind``; True is an attribute without a value,
            None and False leave it out.
    """
    words = [tag]
    for name, value in attributes.items():
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            words.append(f'{name}="{escape(str(value))}"')
    opening = f"<{' '.join(words)}>"
    return Markup(opening if tag in _VOID else f"{opening}{join(children)}</{tag}>")


def svg(width: float, height: float, *children: Child, **attributes: Any) -> Markup:
    """Builds a drawing whose user units are those of ``width`` x ``height``."""
    return Markup(el("svg", *children, **attributes).replace("<svg", f'<svg viewBox="0 0 {width:g} {height:g}"', 1))


def join(children: Iterable[Child]) -> Markup:
    """Puts children together."""
    return Markup("".join(_text(child) for child in children))


def _text(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str) or not isinstance(child, Iterable):
        return escape(str(child))
    return join(child)


def table(head: Iterable[Child], rows: Iterable[Iterable[Child]], **attributes: Any) -> Markup:
    """Builds a table in a frame that scrolls sideways on a narrow screen; cells that are numbers go to the right."""

    def row(tag: str, cells: Iterable[Child]) -> Markup:
        return el(
            "tr", [el(tag, _number(cell), class_="num" if isinstance(cell, int | float) else None) for cell in cells]
        )

    body = el("tbody", [row("td", cells) for cells in rows])
    frame = {"class_": "scroll", "tabindex": 0, "role": "region", "aria_label": attributes.pop("label", "table")}
    return el("div", el("table", el("thead", row("th", head)), body, **attributes), **frame)


def _number(value: Child) -> Child:
    if isinstance(value, float):
        return "n/a" if math.isnan(value) else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else value


def page(title: str, body: Iterable[Child], *, script: str = "", data: Mapping[str, Any] | None = None) -> str:
    """Builds a whole page.

    Args:
        title: of the window.
        body: elements of ``main``.
        script: name of a JavaScript file of this package.
        data: what the script reads, from the element ``#data``; strict JSON.
    """
    folder = files(__package__)
    parts = [el("main", body)]
    if data is not None:
        # "</script>" in a class name would end the element: no "<" is written as such.
        text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
        parts.append(el("script", Markup(text), type="application/json", id="data"))
    if script:
        parts.append(el("script", Markup((folder / script).read_text("utf-8"))))
    head = (
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", Markup((folder / "style.css").read_text("utf-8"))),
    )
    return "<!doctype html>\n" + el("html", el("head", head), el("body", parts), lang="en") + "\n"
