"""The page of ``densekit check``: findings by kind, with thumbnails, and the classes."""

from concurrent.futures import ThreadPoolExecutor

from densekit.data.inspect.findings import Finding, Findings, Histogram
from densekit.data.inspect.kinds import SEVERITIES, Kind
from densekit.report.html import Markup, el, join, page, svg, table
from densekit.report.thumbnails import Thumbnail, thumbnail

__all__ = ["findings_page"]

_PICTURES = 12  # of a kind
_LINES = 300
_LONGEST = 360
_LABELS = {"error": "error", "warning": "warning", "info": "note"}


def findings_page(findings: Findings) -> str:
    """Returns the page as text."""
    wanted = {f.image for _, found in findings.items() for f in found[:_PICTURES] if f.image is not None}
    with ThreadPoolExecutor() as pool:
        pictures = dict(zip(wanted, pool.map(lambda path: thumbnail(path, _LONGEST), wanted)))
    kinds = list(findings.items())
    tiles = [("images", findings.images), ("objects", findings.objects)]
    tiles += [(f"{_LABELS[severity]}s", findings.count(severity)) for severity in SEVERITIES]
    body = [
        el("header", el("p", "densekit check", class_="eyebrow"), el("h1", findings.name)),
        el("dl", [el("div", el("dt", name), el("dd", f"{count:,}")) for name, count in tiles], class_="tiles"),
        _overview(kinds),
        [_section(kind, found, pictures) for kind, found in kinds],
        _classes(findings.histogram) if findings.histogram else None,
    ]
    return page(f"{findings.name}: densekit check", body)


def _overview(kinds: list[tuple[Kind, list[Finding]]]) -> Markup:
    if not kinds:
        return el("p", "Nothing was found.", class_="all-clear")
    rows = [
        (_badge(kind), el("a", kind.title, href=f"#{kind.name}"), len(found), found[0].where) for kind, found in kinds
    ]
    return el(
        "section",
        el("h2", "Findings"),
        table(("", "what", "count", "first"), rows, label="findings", class_="overview"),
    )


def _badge(kind: Kind) -> Markup:
    return el("span", _LABELS[kind.severity], class_=f"badge {kind.severity}")


def _section(kind: Kind, found: list[Finding], pictures: dict[str, Thumbnail | None]) -> Markup:
    title = kind.title[0].upper() + kind.title[1:]
    shown = [finding for finding in found[:_PICTURES] if finding.image is not None]
    cards = [_card(finding, pictures[finding.image or ""]) for finding in shown]
    rest = found if not shown else found[_PICTURES:]
    lines = el("ul", [el("li", _sentence(finding)) for finding in rest[:_LINES]], class_="lines") if rest else None
    if lines is not None and shown:
        lines = el("details", el("summary", f"{len(rest):,} more"), lines)
    if len(rest) > _LINES:
        lines = join(
            [lines, el("p", f"{len(rest) - _LINES:,} further ones are left out; --json has all.", class_="quiet")]
        )
    return el(
        "section",
        el("h2", _badge(kind), " ", title, " ", el("span", f"{len(found):,}", class_="count")),
        el("p", el("b", "What to do: "), kind.remedy),
        el("p", el("b", "--fix: "), kind.fix, ".", class_="quiet") if kind.fix else None,
        el("div", cards, class_="cards") if cards else None,
        lines,
        id=kind.name,
    )


def _sentence(finding: Finding) -> str:
    return f"{finding.where}: {finding.detail}" if finding.detail else finding.where


def _card(finding: Finding, picture: Thumbnail | None) -> Markup:
    if picture is None:
        shot = el("div", "no picture", class_="shot none")
    else:
        drawn = [_rectangle(box) for box in (finding.box, finding.mask_box) if box is not None]
        overlay = svg(picture.width, picture.height, drawn, class_="mark", aria_hidden="true")
        shot = el("div", el("img", src=picture.uri, alt="", loading="lazy"), overlay, class_="shot")
    return el("figure", shot, el("figcaption", el("b", finding.where), el("br"), finding.detail))


def _rectangle(box: tuple[float, float, float, float]) -> Markup:
    x0, y0, x1, y1 = box
    return el("rect", x=f"{x0:g}", y=f"{y0:g}", width=f"{max(x1 - x0, 0):g}", height=f"{max(y1 - y0, 0):g}")


def _classes(histogram: Histogram) -> Markup:
    most = max(histogram.counts.values(), default=0) or 1
    ordered = sorted(histogram.counts.items(), key=lambda entry: -entry[1])
    rows = [
        (
            name,
            count,
            histogram.images[name],
            el("div", el("i", style=f"width:{100 * count / most:.1f}%"), class_="bar"),
        )
        for name, count in ordered
    ]
    head = ("class", histogram.unit, "images", "")
    return el("section", el("h2", f"Classes ({len(rows)})"), table(head, rows, label="classes", class_="classes"))
