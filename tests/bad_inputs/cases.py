"""All cases, by group."""

from __future__ import annotations

from bad_inputs import (
    cases_datasets,
    cases_folders,
    cases_images,
    cases_lists,
    cases_overrides,
    cases_own,
    cases_predict,
    cases_runs,
    cases_verbs,
)
from bad_inputs.judge import Case

GROUPS: dict[str, list[Case]] = {
    "own folders": cases_folders.CASES,
    "own categories and lists": cases_lists.CASES,
    "image files": cases_images.CASES,
    "data sets": cases_datasets.CASES,
    "overrides": cases_overrides.CASES,
    "own classes and weights": cases_own.CASES,
    "other verbs": cases_verbs.CASES,
    "stored runs": cases_runs.CASES,
    "predict and threshold": cases_predict.CASES,
}
