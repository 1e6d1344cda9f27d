"""Pictures whose holes were painted: the best, the median and the worst, and the numbers by the share of the hole."""

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from densekit.report.html import Markup, el, table
from densekit.report.run_files import RunFiles
from densekit.report.thumbnails import thumbnail

__all__ = ["painted_section"]

_FILE = "inpainting.json"  # an entry for each picture: file_name, hole (its share), hole_PSNR ..., strip
_LONGEST = 720  # pixels of a strip
_RANK = "hole_PSNR"


def painted_section(run: RunFiles, count: int) -> Markup | None:
    """Builds the section; None where the run has painted nothing.

    Args:
        run: the run.
        count: how many pictures to show of the best, of those in the middle, and of the worst.

    Raises:
        ValueError: The file of the evaluation is damaged.
    """
    path = run.inference / _FILE
    if not path.is_file():
        return None
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        ranked = sorted((e for e in entries if e.get(_RANK) is not None), key=lambda entry: float(entry[_RANK]))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}. Evaluate again with train_net.py --eval-only.") from error
    groups = [(title, _cards(run.inference, those)) for title, those in choose(ranked, count)]
    return el(
        "section",
        el("h2", "Painted pictures"),
        el(
            "p",
            "Each strip: with its hole, painted, and as it was. Ranked by the signal-to-noise ratio in the hole.",
            class_="quiet",
        ),
        _buckets(run.results.get("inpainting", {})),
        [[el("h3", title), el("div", cards, class_="gallery")] for title, cards in groups],
    )


def choose(ranked: Sequence[Mapping[str, Any]], count: int) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """The worst, those in the middle and the best of entries that are ranked from worst to best."""
    share = min(count, max(1, len(ranked) // 3)) if ranked else 0
    middle = (len(ranked) - share) // 2
    chosen = [
        ("Worst", list(ranked[:share])),
        ("Median", list(ranked[middle : middle + share])),
        ("Best", list(ranked[::-1][:share])),
    ]
    return [(title, those) for title, those in chosen if those]


def _cards(folder: Path, entries: Sequence[Mapping[str, Any]]) -> list[Markup]:
    with ThreadPoolExecutor() as pool:
        pictures = list(pool.map(lambda entry: thumbnail(str(folder / entry.get("strip", "")), _LONGEST), entries))
    cards = []
    for entry, picture in zip(entries, pictures):
        name = Path(entry["file_name"]).name
        shown = (
            el("img", src=picture.uri, alt=f"{name}: with its hole, painted, as it was", style="width:100%")
            if picture is not None
            else el("p", "the strip cannot be read", class_="quiet")
        )
        numbers = f"{entry[_RANK]:.2f} dB in a hole of {100 * entry['hole']:.0f} %"
        cards.append(el("figure", shown, el("figcaption", el("b", name), " ", el("span", numbers, class_="quiet"))))
    return cards


def _buckets(metrics: Mapping[str, float | None]) -> Markup | None:
    """A row for each bucket of the hole's share."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        metric, dash, bucket = name.partition("-")
        if dash:
            rows.setdefault(bucket, {})[metric] = math.nan if value is None else float(value)
    if not rows:
        return None
    names = list(dict.fromkeys(metric for row in rows.values() for metric in row))
    lines = [[bucket, *(row.get(name, math.nan) for name in names)] for bucket, row in rows.items()]
    return table(["hole", *names], lines, label="by the share of the hole", class_="results")
