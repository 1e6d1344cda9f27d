"""Proposal generators: the names that densekit uses of ``detectron2.modeling.proposal_generator``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    import densekit.runtime.modeling.proposal_generator as host
else:
    import detectron2.modeling.proposal_generator as host

PROPOSAL_GENERATOR_REGISTRY = host.PROPOSAL_GENERATOR_REGISTRY
RPN = host.RPN
RPN_HEAD_REGISTRY = host.RPN_HEAD_REGISTRY
StandardRPNHead = host.StandardRPNHead
build_proposal_generator = host.build_proposal_generator
build_rpn_head = host.build_rpn_head
