"""Compose, check, identify, build: from overrides to checked values and objects."""

from anomaly_bench.config.compose import (
    NOT_GIVEN,
    compose,
    compose_known,
    flatten,
    hydra_app,
    hydra_context,
    options,
)
from anomaly_bench.config.identity import (
    OWN_FOLDER,
    Identity,
    WeightFiles,
    identify,
    identify_by_rule_1,
    identify_method,
    is_own,
    names_files,
    place_of,
    read_once,
    weight_files,
)
from anomaly_bench.config.schema import (
    NOT_ARGUMENTS,
    Hardware,
    Images,
    Settings,
    build,
    checked_part,
    validate,
)
from anomaly_bench.config.sweep_jobs import RunConfig, check, check_values, compose_jobs, count, for_method
from anomaly_bench.config.targets import allow_folder, forget_folders, is_allowed, locate
from anomaly_bench.paths import conf_dir
