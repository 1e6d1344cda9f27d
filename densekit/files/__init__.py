"""Formats of files that several layers read or write: complete or absent, bounded in size, read as data."""
