"""Models in the form in which they only predict."""

from densekit.deploy.form import inference_form, optimize

__all__ = ["inference_form", "optimize"]
