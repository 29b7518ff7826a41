"""Compose, validate, identify, build: from the command line's words to checked values and objects."""

from anomaly_bench.config.compose import compose, compose_known, conf_dir, flatten, hydra_context, options
from anomaly_bench.config.identity import (
    OWN_FOLDER,
    Identity,
    WeightFiles,
    identify,
    identify_by_rule_1,
    place_of,
    read_once,
    weight_files,
)
from anomaly_bench.config.jobs import check, composed, count, for_its_method
from anomaly_bench.config.targets import forget_folders, is_allowed, locate
from anomaly_bench.config.validate import (
    NOT_ARGUMENTS,
    Hardware,
    Settings,
    build,
    validate,
)

__all__ = [
    "NOT_ARGUMENTS",
    "OWN_FOLDER",
    "Hardware",
    "Identity",
    "Settings",
    "WeightFiles",
    "build",
    "check",
    "compose",
    "compose_known",
    "composed",
    "conf_dir",
    "count",
    "flatten",
    "for_its_method",
    "forget_folders",
    "hydra_context",
    "identify",
    "identify_by_rule_1",
    "is_allowed",
    "locate",
    "options",
    "place_of",
    "read_once",
    "validate",
    "weight_files",
]
