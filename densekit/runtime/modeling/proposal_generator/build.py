"""The registry of proposal generators."""

from torch import nn

from densekit.runtime.config import CfgNode
from densekit.runtime.layers import ShapeSpec
from densekit.runtime.utils.registry import Registry

PROPOSAL_GENERATOR_REGISTRY = Registry("PROPOSAL_GENERATOR")
PROPOSAL_GENERATOR_REGISTRY.__doc__ = """Called as ``obj(cfg, input_shape)`` with the shapes of the features by name."""


def build_proposal_generator(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module | None:
    """Builds ``cfg.MODEL.PROPOSAL_GENERATOR.NAME``; None for ``PrecomputedProposals``, which come with the data."""
    name = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    return None if name == "PrecomputedProposals" else PROPOSAL_GENERATOR_REGISTRY.get(name)(cfg, input_shape)
