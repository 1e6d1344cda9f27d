"""A user's own data sets: the forms they may be stored in, and their registration."""

from densekit.data.own.catalog import FORMS, register_dataset, register_from_yaml

__all__ = ["FORMS", "register_dataset", "register_from_yaml"]
