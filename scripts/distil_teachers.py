"""Distil the teachers of Uninformed Students that the package ships, and write a model card for each.

Every tenth image of the folder is held out.  On patches of those the teacher is compared with a random network of the
same shape: how much of the ImageNet network's features a linear map of its descriptors explains (R2, fitted on half of
the patches, measured on the others), and how often the descriptor of a shifted, noisy copy lies nearest to that of its
original among 1024 (retrieval).  The distillation has the numbers of conf/method/us.yaml but for what is overridden; if
it is interrupted, the same command goes on with it.

    python scripts/distil_teachers.py IMAGES --patch-size 33 method.teacher.steps=10000 method.teacher.layer=3
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch
from pytorch_lightning import seed_everything
from torch import Tensor

from anomaly_bench import config
from anomaly_bench.files import sha256, sha256_of
from anomaly_bench.nets.distillation import Distillation, Triplets, natural_images
from anomaly_bench.nets.patch_descriptors import PatchDescriptor
from anomaly_bench.nets.teachers import save_teacher
from anomaly_bench.runs.fit import fit
from anomaly_bench.runs.manifest import cpu_model, version
from anomaly_bench.runs.runner import console_log

TEACHERS = Path(__file__).parents[1] / "anomaly_bench" / "nets" / "teachers"
SEED, PATCHES, RIDGE = 0, 1024, 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", type=Path, help="a folder of natural images")
    parser.add_argument("--patch-size", type=int, default=33)
    parser.add_argument("--work", type=Path, default=Path("outputs/.teachers"), help="checkpoints")
    args, overrides = parser.parse_known_args()
    settings = config.validate(config.compose(["method=us", "dataset=demo/brick", *overrides]))
    teachers = config.build("method", settings.method).teachers
    if settings.hardware.threads:
        torch.set_num_threads(settings.hardware.threads)
    console_log()
    seed_everything(SEED, verbose=False)
    key = (settings.method["conv1_kernel_33"], settings.method["conv3_channels_65"])
    net, random = (PatchDescriptor(args.patch_size, *key) for _ in range(2))
    files = natural_images(args.images)
    with tempfile.TemporaryDirectory() as scratch:
        for file in set(files) - set(files[::10]):
            (Path(scratch) / file.name).symlink_to(file.resolve())
        stage = replace(teachers, config=teachers.config.model_copy(update={"images": scratch})).stage(net)
        setting = json.dumps([args.patch_size, *key, teachers.recipe])
        folder = args.work / sha256(setting)[:8]
        spent = fit(stage, folder, settings.hardware, SEED, 60, [])
    file = TEACHERS / f"p{args.patch_size}.safetensors"
    command = shlex.join(["python", "scripts/distil_teachers.py", "IMAGES", *sys.argv[2:]])
    save_teacher(net, file, {"command": command}, torch.float16)
    figures = {name: evaluate(stage.module, n, files[::10]) for name, n in (("this teacher", net), ("random", random))}
    card = TEACHERS / f"p{args.patch_size}.md"
    card.write_text(describe(args.patch_size, teachers.recipe, figures, file, command, len(files), spent), "utf-8")
    print(card.read_text("utf-8"))


@torch.no_grad()
def evaluate(module: Distillation, net: PatchDescriptor, files: list[Path]) -> dict[str, float]:
    """Figures of one network on patches of images that no training saw."""
    seed_everything(SEED, verbose=False)
    module.teacher = net
    triplets = Triplets(files, net.patch_size, PATCHES)
    batch: tuple[Tensor, Tensor, Tensor] = tuple(
        map(torch.stack, zip(*(triplets[i] for i in range(PATCHES)), strict=True))
    )
    p, t, near = module.target(batch[0]), module.describe(batch[0]), module.describe(batch[1])
    mean, std = t.mean(0), t.std(0).clamp_min(1e-6)
    t, near = (t - mean) / std, (near - mean) / std
    found = torch.cdist(near, t).argmin(1) == torch.arange(PATCHES)
    losses = module.losses(batch)
    return {
        "knowledge loss": float(losses["knowledge"]),
        "compactness loss": float(losses["compactness"]),
        "linear probe, R2": probe(t, p),
        "retrieval, share found": float(found.float().mean()),
    }


def probe(t: Tensor, p: Tensor) -> float:
    """R2 of a ridge regression from descriptors [N, d] to features [N, C], fitted on the first half."""
    x = torch.cat([t, torch.ones(len(t), 1)], 1).double()
    half, p = len(t) // 2, p.double()
    gram = x[:half].T @ x[:half] + RIDGE * torch.eye(x.shape[1], dtype=x.dtype)
    guess = x[half:] @ torch.linalg.solve(gram, x[:half].T @ p[:half])
    rest = p[half:]
    return float(1 - (guess - rest).pow(2).sum() / (rest - rest.mean(0)).pow(2).sum())


def describe(
    patch_size: int,
    recipe: dict[str, object],
    figures: dict[str, dict[str, float]],
    file: Path,
    command: str,
    images: int,
    spent: dict[str, float],
) -> str:
    names = list(figures)
    rows = "\n".join(
        f"| {key} | {' | '.join(f'{figures[name][key]:.3f}' for name in names)} |" for key in figures[names[0]]
    )
    numbers = "\n".join(f"- {key}: {value}" for key, value in recipe.items())
    return f"""# Teacher for patches of {patch_size} pixels

A patch network of Uninformed Students (Bergmann et al., CVPR 2020), distilled from an ImageNet network on patches of
natural images.  {file.name}: float16, {file.stat().st_size} bytes,
sha256 `{sha256_of(file)}`.

On {PATCHES} patches of held-out images, with float32 weights:

| | {" | ".join(names)} |
|---|{"---:|" * len(names)}
{rows}

- data: {images - len(range(0, images, 10))} of {images} ImageNet training images, one for each class
- command: `{command}`
- hardware: {cpu_model()}, {spent["seconds"]:.0f} s
- versions: {", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "pytorch-lightning"))}
- date: {date.today()}

Recipe:

{numbers}
"""


if __name__ == "__main__":
    main()
