"""Proposal selection: the names that densekit uses of ``detectron2.modeling.proposal_generator.proposal_utils``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.modeling.proposal_generator.proposal_utils import (
        add_ground_truth_to_proposals,
        find_top_rpn_proposals,
    )
else:
    from detectron2.modeling.proposal_generator.proposal_utils import (
        add_ground_truth_to_proposals,
        find_top_rpn_proposals,
    )

__all__ = ["add_ground_truth_to_proposals", "find_top_rpn_proposals"]
