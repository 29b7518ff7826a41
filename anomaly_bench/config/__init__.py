"""Compose, validate, identify, build: from the command line's words to checked values and objects."""

from anomaly_bench.config.compose import (
    NOT_GIVEN,
    compose,
    compose_known,
    conf_dir,
    flatten,
    hydra_context,
    options,
    split_config_dir,
)
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
from anomaly_bench.config.schema import (
    NOT_ARGUMENTS,
    Hardware,
    Settings,
    build,
    validate,
)
from anomaly_bench.config.sweep_jobs import check, composed, count, for_its_method, value_mistakes
from anomaly_bench.config.targets import allow_folder, forget_folders, is_allowed, locate

__all__ = [
    "NOT_ARGUMENTS",
    "NOT_GIVEN",
    "OWN_FOLDER",
    "Hardware",
    "Identity",
    "Settings",
    "WeightFiles",
    "allow_folder",
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
    "split_config_dir",
    "validate",
    "value_mistakes",
    "weight_files",
]
