"""Distil the teachers of Uninformed Students that the package ships, and write a model card for each.

Every tenth image of the folder is held out.  On those the teacher is compared with a random network of the same shape:
how much of the ImageNet network's features a linear map of its descriptors explains (R2, fitted on half of the images,
measured on the others, for both networks alike), how many dimensions vary independently (the participation ratio of the
correlation matrix's eigenvalues), and how often the descriptor of a shifted, noisy copy lies nearest to that of its
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

from anomaly_bench import config
from anomaly_bench.files import sha256, sha256_of
from anomaly_bench.nets.distillation import Distillation, knowledge, linear_fit
from anomaly_bench.nets.natural_patches import Crops, Triplets, natural_images
from anomaly_bench.nets.patch_descriptors import PatchDescriptor
from anomaly_bench.nets.teachers import save_teacher
from anomaly_bench.runs.fit import fit
from anomaly_bench.runs.manifest import cpu_model, version
from anomaly_bench.runs.runner import console_log

TEACHERS = Path(__file__).parents[1] / "anomaly_bench" / "nets" / "teachers"
SEED, PATCHES, COPIES, CROPS = 0, 4096, 1024, 64  # CROPS with target: image; COPIES: patches of the retrieval


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
    save_teacher(net, file, {"command": command, "recipe": json.dumps(teachers.recipe)}, torch.float16)
    figures = {name: evaluate(stage.module, n, files[::10]) for name, n in (("this teacher", net), ("random", random))}
    card = TEACHERS / f"p{args.patch_size}.md"
    card.write_text(describe(args.patch_size, teachers.recipe, figures, file, command, len(files), spent), "utf-8")
    print(card.read_text("utf-8"))


@torch.no_grad()
def evaluate(module: Distillation, net: PatchDescriptor, files: list[Path]) -> dict[str, float]:
    """Figures of one network on images that no training saw; half of them fit the linear map, the others measure it."""
    seed_everything(SEED, verbose=False)
    module.teacher = net
    triplets = Triplets(files, net.patch_size, PATCHES, module.config)
    patches, near, _ = map(torch.stack, zip(*(triplets[i] for i in range(PATCHES)), strict=True))
    images = patches
    if module.config.target == "image":
        crops = Crops(files, net.patch_size, CROPS, module.config)
        images = torch.stack([crops[i] for i in range(CROPS)])
    p, t = module.target(images), module.describe(images)
    half = len(t) // 2
    weight, bias = linear_fit(t[:half], p[:half])
    loss = float(knowledge(t[half:] @ weight.T + bias, p[half:]))
    mean = float(knowledge(p[:half].mean(0), p[half:]))
    x, y = (net((each[:COPIES] - module.backbone.mean) / module.backbone.std) for each in (patches, near))
    found = torch.cdist((y - x.mean(0)) / x.std(0), (x - x.mean(0)) / x.std(0)).argmin(1) == torch.arange(COPIES)
    eigenvalues = torch.linalg.eigvalsh(torch.corrcoef(t.T))
    return {
        "knowledge loss, linear map fitted": loss,
        "knowledge loss of predicting the mean": mean,
        "linear probe, R2": 1 - loss / mean,
        "dimensions in use, of 128": float(eigenvalues.sum() ** 2 / eigenvalues.square().sum()),
        "retrieval, share found": float(found.float().mean()),
    }


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

On patches of held-out images, with float32 weights; both networks' linear maps are fitted on half of the images and
measured on the others:

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
