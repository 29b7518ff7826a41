"""A method that trains within a second, notes what it does in a folder, and fails when a file there says so."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from anomaly_bench.contracts import Dataset, Method, NormalBatch, NormalData, Record, Scores, Stage

EPOCH_STEP = 1_000_003  # between the random seeds of two epochs


def seed() -> int:
    """The run's; each epoch is drawn from one of its own, that much further."""
    return torch.initial_seed() % EPOCH_STEP


class Notes:
    """<folder>/notes.jsonl: a line for each thing that happened, in any process.  Without a folder nothing is kept."""

    def __init__(self, folder: str | None) -> None:
        self.folder = Path(folder) if folder else None

    def add(self, what: str, **more: Any) -> None:
        if self.folder:
            with (self.folder / "notes.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"what": what, "pid": os.getpid(), "seed": seed(), **more}) + "\n")

    def asked(self, fault: str) -> bool:
        """Whether the file <folder>/<fault>, or for a run with this seed <folder>/<fault>.<seed>, is there."""
        names = (fault, f"{fault}.{seed()}")
        return self.folder is not None and any((self.folder / name).exists() for name in names)


class Template(LightningModule):
    """The mean image, learned from noisy images: the result depends on the random state and on every step."""

    def __init__(self, image_size: int, lr: float, notes: Notes) -> None:
        super().__init__()
        self.lr, self.notes = lr, notes
        self.mean = nn.Parameter(torch.rand(3, image_size, image_size))

    def training_step(self, batch: NormalBatch, batch_idx: int) -> Tensor:
        images = batch["image"] * (float("nan") if self.notes.asked("nan_at_once") else 1)
        self.notes.add(
            "step", keys=sorted(batch), shape=list(images.shape), epoch=self.current_epoch, paths=batch["path"]
        )
        if self.current_epoch == 1:
            if self.notes.asked("raise"):
                raise RuntimeError("the toy was told to fail")
            if self.notes.asked("nan"):
                images = images * float("nan")
            if self.notes.asked("explode"):
                images = images * 1e6
        loss = (images + 0.1 * torch.rand_like(images) - self.mean).pow(2).mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Toy(Method):
    """Stage "template" on the training images, then a random shift, then stage "again" on the validation images."""

    val_share = 0.25

    def __init__(
        self,
        image_size: Annotated[int, Field(ge=8)],
        batch_size: Annotated[int, Field(ge=1)],
        epochs: Annotated[int, Field(ge=1)],
        lr: Annotated[float, Field(gt=0)],
        kind: Literal["one", "two"],
        notes: str | None,
    ) -> None:
        super().__init__()
        self.image_size, self.batch_size, self.epochs, self.kind, self.notes = (
            image_size,
            batch_size,
            epochs,
            kind,
            Notes(notes),
        )
        self.template, self.again = (Template(image_size, lr, self.notes) for _ in range(2))
        self.register_buffer("shift", torch.zeros(()))

    def stages(self, data: NormalData) -> Iterator[Stage]:
        loader = data.loader("train", self.batch_size, shuffle=True)
        self.notes.add("begin", device=str(self.shift.device), gpus=os.environ.get("CUDA_VISIBLE_DEVICES"))
        yield Stage("template", self.template, loader, {"max_epochs": self.epochs})
        self.shift = torch.rand(()) + self.template.mean.detach().mean().cpu()
        self.notes.add("between", shift=float(self.shift))
        if self.kind == "two":
            yield Stage("again", self.again, data.loader("val", self.batch_size), {"max_epochs": 2})
            self.notes.add("end")

    def score(self, images: Tensor) -> Scores:
        self.notes.add("score", shape=list(images.shape), type=type(images).__name__)
        if self.notes.asked("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        templates = self.template.mean + 0.1 * self.again.mean
        differences = (images - templates).abs()
        maps = differences.mean(1) + self.shift  # [B, H, W]
        red = differences[:, 0]
        parts = {"red": Scores(red.flatten(1).amax(1), red), "mean": Scores(maps.mean((1, 2)), None)}
        return Scores(maps.flatten(1).amax(1), maps, parts if self.notes.asked("parts") else None)


class Empty(Dataset):
    """One normal image to train on, none to test with."""

    def __init__(self) -> None: ...

    def records(self, split: Literal["train", "test"]) -> list[Record]:
        return [Record("train/0", "good", np.zeros((8, 8), np.uint8))] if split == "train" else []
