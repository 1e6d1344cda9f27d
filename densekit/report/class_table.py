"""The table of a page's classes, and the names of metrics that it is made from."""

import math
from collections.abc import Mapping
from typing import Any

from densekit.report.html import Markup, el, join, table

__all__ = ["class_table", "number_of", "split_metrics", "swatch"]

_ROWS_IN_VIEW = 12  # before the table scrolls


def split_metrics(
    metrics: Mapping[str, float | None],
) -> tuple[dict[str, float | None], dict[str, dict[str, float | None]]]:
    """Returns the averages, and metric -> class -> value of what is called ``<metric>-<class>``."""
    means: dict[str, float | None] = {}
    per_class: dict[str, dict[str, float | None]] = {}
    for name, value in metrics.items():
        kind, dash, of = name.partition("-")
        # "min(IoU, B-Iou)-car" has a dash of its own.
        if name.startswith("min(IoU, B-Iou)-"):
            kind, of = "min(IoU, B-Iou)", name.removeprefix("min(IoU, B-Iou)-")
        if dash:
            per_class.setdefault(kind, {})[of] = value
        else:
            means[name] = value
    return means, per_class


def number_of(value: float | None) -> float:
    """Returns NaN for what is undefined."""
    return math.nan if value is None else float(value)


def class_table(
    columns: Mapping[str, Mapping[str, float | None]],
    support: Mapping[str, Mapping[str, int | float]],
    colours: Mapping[str, tuple[int, int, int]],
) -> Markup:
    """Builds a table with a line for each class, the best first; a click on a head sorts by it.

    Args:
        columns: Metric -> class -> value; None where it is undefined.
        support: Column -> class -> how much of it there is.
        colours: Class -> its colour in the page's pictures; classes without one have none.
    """
    first = {name: number_of(value) for name, value in next(iter(columns.values())).items()}
    ordered = sorted(first, key=lambda name: -1.0 if math.isnan(first[name]) else first[name], reverse=True)
    head: list[Any] = ["class", *support, *columns]
    rows = []
    for name in ordered:
        share = 0.0 if math.isnan(first[name]) else max(0.0, min(100.0, first[name]))
        label = el("span", name, el("span", el("i", style=f"width:{share:.1f}%"), class_="bar"), class_="name")
        key = swatch(colours[name]) if name in colours else None
        values = [number_of(column.get(name)) for column in columns.values()]
        named = el("span", key, label, class_="named") if key else label
        rows.append([named, *(column.get(name, 0) for column in support.values()), *values])
    buttons = [el("button", name, type="button", class_="sort") for name in head]
    shown = table(buttons, rows, label="classes", class_="classes sortable")
    if len(rows) <= _ROWS_IN_VIEW:
        return shown
    return join([shown, el("p", f"{len(rows)} classes; more rows by scrolling inside the table.", class_="quiet")])


def swatch(colour: tuple[int, int, int]) -> Markup:
    """Builds the key of a colour."""
    return el("i", class_="key class", style=f"background:rgb{tuple(map(int, colour))}")
