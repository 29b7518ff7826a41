"""Fixtures of this room's tests."""

from small_folders import category, small_files_only, tiles  # noqa: F401
