"""Blocks that two papers share, frozen networks, teachers."""
