"""Result tables: the names that densekit uses of ``detectron2.evaluation.testing``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.evaluation.testing as host
else:
    import detectron2.evaluation.testing as host

flatten_results_dict = host.flatten_results_dict
print_csv_format = host.print_csv_format
verify_results = host.verify_results
