"""CARAFE's operator: "CARAFE: Content-Aware ReAssembly of FEatures" (arXiv 1905.02188), section 3.3."""

from densekit.ops.carafe.operator import PATHS, carafe

__all__ = ["PATHS", "carafe"]
