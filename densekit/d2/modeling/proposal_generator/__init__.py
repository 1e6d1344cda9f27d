"""Proposal generators: the names that densekit uses of ``detectron2.modeling.proposal_generator``."""

from typing import TYPE_CHECKING

from densekit.d2._host import HOST

if TYPE_CHECKING or HOST == "builtin":
    from densekit.runtime.modeling.proposal_generator import (
        PROPOSAL_GENERATOR_REGISTRY,
        RPN,
        RPN_HEAD_REGISTRY,
        StandardRPNHead,
        build_proposal_generator,
        build_rpn_head,
    )
else:
    from detectron2.modeling.proposal_generator import (
        PROPOSAL_GENERATOR_REGISTRY,
        RPN,
        RPN_HEAD_REGISTRY,
        StandardRPNHead,
        build_proposal_generator,
        build_rpn_head,
    )

__all__ = [
    "PROPOSAL_GENERATOR_REGISTRY",
    "RPN",
    "RPN_HEAD_REGISTRY",
    "StandardRPNHead",
    "build_proposal_generator",
    "build_rpn_head",
]
