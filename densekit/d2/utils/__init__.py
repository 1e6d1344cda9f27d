"""Utilities: one module for each module of ``detectron2.utils`` that densekit uses."""
