"""``Registry``: a table from the names that configs use to classes and functions."""

from fvcore.common.registry import Registry as Registry
