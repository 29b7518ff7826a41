"""Compose, validate, identify, build: from the command line's words to checked values and objects."""

from anomaly_bench.config.compose import compose, compose_known, conf_dir, flatten, hydra_context, options
from anomaly_bench.config.identity import identify, read_once
from anomaly_bench.config.jobs import check, composed
from anomaly_bench.config.validate import (
    NOT_ARGUMENTS,
    Hardware,
    Settings,
    build,
    locate,
    validate,
)

__all__ = [
    "NOT_ARGUMENTS",
    "Hardware",
    "Settings",
    "build",
    "check",
    "compose",
    "compose_known",
    "composed",
    "conf_dir",
    "flatten",
    "hydra_context",
    "identify",
    "locate",
    "options",
    "read_once",
    "validate",
]
