"""Utilities of the built-in host."""
