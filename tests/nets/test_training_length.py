"""Epochs or steps: exactly one of them, and as many steps as were requested whatever the folder's size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from anomaly_bench import config
from anomaly_bench.errors import UserError
from anomaly_bench.former_names import present_method
from anomaly_bench.nets.training_length import TrainingLength

FAST = ("rd_fast", "csflow_fast", "us_fast")


@pytest.mark.parametrize(("images", "epochs"), [(40, 4), (8, 10), (20, 5), (3, 10), (161, 1)])
def test_steps_end_in_the_last_epoch_that_is_needed(images: int, epochs: int) -> None:
    loader: Any = DataLoader(list(range(images)), batch_size=16)  # type: ignore[arg-type]
    assert TrainingLength(None, 10).limits(loader, 16) == {"max_epochs": epochs, "max_steps": 10}
    taken = [step for _ in range(epochs) for step in range(len(loader))]
    assert len(taken) - len(loader) < 10 <= len(taken)
    assert TrainingLength(7, None).limits(loader, 16) == {"max_epochs": 7}


@pytest.mark.parametrize(
    ("epochs", "steps", "line"),
    [
        (200, 50, "method.epochs: 200 given, with method.steps=50; exactly one of epochs and steps is needed"),
        (None, None, "method.epochs: null given, and no steps; exactly one of epochs and steps is needed"),
    ],
)
def test_exactly_one_is_set(epochs: int | None, steps: int | None, line: str) -> None:
    with pytest.raises(UserError) as refused:
        TrainingLength(epochs, steps)
    assert line in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", FAST)
def test_a_fast_variant_counts_steps(name: str) -> None:
    settings = config.validate(config.compose([f"method={name}", "dataset=mtd"]))
    assert settings.method["epochs"] is None
    assert settings.method["steps"] >= 100
    with torch.device("meta"):
        config.build("method", settings.method)
    with pytest.raises(UserError, match="exactly one of epochs and steps"):
        config.build(
            "method", config.validate(config.compose([f"method={name}", "dataset=mtd", "method.epochs=3"])).method
        )


@pytest.mark.parametrize("name", ["rd", "csflow", "us"])
def test_the_key_without_a_value_is_none_of_a_run(name: str) -> None:
    """Runs of versions that did not know it keep their ids, and their configurations are read."""
    settings = config.validate(config.compose([f"method={name}", "dataset=mtd", "method.weights=random"]))
    assert settings.method["steps"] is None
    before = config.identify(settings, {})
    stored: Any = OmegaConf.to_container(config.compose([f"method={name}", "dataset=mtd"]).method)
    del stored["steps"]
    with torch.device("meta"):
        config.build("method", config.checked_part("method", present_method(stored)))
    del settings.method["steps"]
    assert config.identify(settings, {}) == before
    settings.method |= {"steps": 5, "epochs": None}
    assert config.identify(settings, {}) != before
