"""Fixtures of this room's tests."""

from small_results import paper, run  # noqa: F401
