"""Adds what pyproject.toml cannot say: the folder ``projects`` installs as the package ``densekit.projects``."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["densekit", "densekit.*"]),
        "densekit.projects",
        *(f"densekit.projects.{name}" for name in find_packages("projects")),
    ],
    package_dir={"densekit": "densekit", "densekit.projects": "projects"},
)
