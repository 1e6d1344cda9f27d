"""The evaluation loop: the names that densekit uses of ``detectron2.evaluation``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.evaluation as host
else:
    import detectron2.evaluation as host

DatasetEvaluator = host.DatasetEvaluator
DatasetEvaluators = host.DatasetEvaluators
inference_context = host.inference_context
inference_on_dataset = host.inference_on_dataset
print_csv_format = host.print_csv_format
verify_results = host.verify_results
