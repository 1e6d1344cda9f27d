"""Table of the entries that a weight file and a model did not have in common."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from tabulate import tabulate

Shape = tuple[int, ...]

# Made anew from the configuration, so that old files may have them or lack them.
_DERIVED = ("pixel_mean", "pixel_std")
_MAX_ROWS = 12
_MAX_LOADED = 4  # rows about what went well


@dataclass
class LoadReport:
    """The outcome of loading weights into a model.

    Attributes:
        total: entries in the model's state dict.
        missing: names in the model that the file lacks.
        unexpected: names in the file that the model lacks.
        reshaped: (name, shape in the file, shape in the model), not loaded.
        taken: names in the model that were loaded.
    """

    total: int
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: list[tuple[str, Shape, Shape]] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        model: torch.nn.Module,
        missing: Iterable[str],
        unexpected: Iterable[str],
        reshaped: Iterable[tuple[str, Shape, Shape]],
    ) -> "LoadReport":
        """The report without what needs no attention: derived buffers, batch counters and aliases of loaded tensors."""
        state = {name: id(value) for name, value in model.state_dict(keep_vars=True).items()}
        absent = {name for name in missing if name in state}
        shapes = [row for row in reshaped if row[0] in state]
        other = {row[0] for row in shapes}
        unfilled = absent | other
        loaded = {ref for name, ref in state.items() if name not in unfilled}
        counted = [name for name in state if not _ignored(name)]
        lost = [n for n in absent - other if not _ignored(n) and state[n] not in loaded]
        return cls(
            total=len(counted),
            taken=sorted(set(counted) - set(lost) - other),
            missing=sorted(lost),
            unexpected=sorted(name for name in unexpected if not _ignored(name)),
            reshaped=sorted(shapes),
        )

    @property
    def loaded(self) -> int:
        """Number of the model's entries that came from the file."""
        return self.total - len(self.missing) - len(self.reshaped)

    @property
    def coverage(self) -> float:
        """The loaded share of the model's entries, 0 to 1."""
        return self.loaded / max(self.total, 1)

    @property
    def clean(self) -> bool:
        return not (self.missing or self.unexpected or self.reshaped)

    def table(self) -> str:
        """One row for each group of names; groups are named by their common prefix."""
        rows = [("loaded", name, _entries(count)) for name, count in _grouped(self.taken, _MAX_LOADED)]
        rows += [
            ("other shape", name, f"file {file}, model {model}") for name, file, model in self.reshaped[:_MAX_ROWS]
        ]
        if len(self.reshaped) > _MAX_ROWS:
            rows.append(("other shape", f"... and {len(self.reshaped) - _MAX_ROWS} more", ""))
        rows += [("not in the file", name, _entries(count)) for name, count in _grouped(self.missing)]
        rows += [("not in the model", name, _entries(count)) for name, count in _grouped(self.unexpected)]
        body = tabulate(rows, headers=("what", "parameters", "how many"), tablefmt="simple")
        return f"Loaded {self.loaded} of the model's {self.total} entries ({self.coverage:.0%}).\n{body}"


def _ignored(name: str) -> bool:
    return name in _DERIVED or name.endswith("num_batches_tracked") or "anchor_generator.cell_anchors" in name


def _entries(count: int) -> str:
    return f"{count} entries" if count != 1 else "1 entry"


def _grouped(names: list[str], rows_left: int = _MAX_ROWS) -> list[tuple[str, int]]:
    """(prefix, count) at the deepest level that needs no more rows than these; a lone name stays whole."""
    groups: dict[str, list[str]] = {}
    for depth in range(8, 0, -1):
        groups = defaultdict(list)
        for name in names:
            groups[".".join(name.split(".")[:depth])].append(name)
        if len(groups) <= rows_left:
            break
    rows = [(members[0] if len(members) == 1 else f"{prefix}.*", len(members)) for prefix, members in groups.items()]
    hidden = rows[rows_left:]
    return rows[:rows_left] + ([("... and other prefixes", sum(count for _, count in hidden))] if hidden else [])
