"""Adds what pyproject.toml cannot say: which packages the folders ``projects`` and ``configs`` are."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["densekit", "densekit.*"]),
        "densekit.projects",
        *(f"densekit.projects.{name}" for name in find_packages("projects")),
        "densekit.configs",
    ],
    package_dir={"densekit": "densekit", "densekit.projects": "projects", "densekit.configs": "configs"},
)
