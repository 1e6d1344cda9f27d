"""Proposal selection: the names that densekit uses of ``detectron2.modeling.proposal_generator.proposal_utils``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling.proposal_generator.proposal_utils as host
else:
    import detectron2.modeling.proposal_generator.proposal_utils as host

add_ground_truth_to_proposals = host.add_ground_truth_to_proposals
find_top_rpn_proposals = host.find_top_rpn_proposals
