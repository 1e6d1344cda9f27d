"""Result tables: the names that densekit uses of ``detectron2.evaluation.testing``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.evaluation.testing import flatten_results_dict, print_csv_format, verify_results
else:
    from detectron2.evaluation.testing import flatten_results_dict, print_csv_format, verify_results

__all__ = ["flatten_results_dict", "print_csv_format", "verify_results"]
