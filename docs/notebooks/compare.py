# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Compare two methods, and a third made of both
#
# Two methods are trained on the generated images of `demo/brick`, without a network: Uninformed Students with a
# teacher that ships with the package, and Reverse Distillation with a teacher of random weights, where its paper
# takes one that was trained on ImageNet.  Images, networks and training are small so that each run takes seconds: the
# figures say nothing about the papers.
#
# This file is a script, `python compare.py`, and a notebook: Jupyter opens it with jupytext.

# %%
from pathlib import Path

import numpy as np
from PIL import Image

from anomaly_bench import evaluate, load, train

# %% [markdown]
# `train` is `bench train`: the same keys, the same run folder, and a run that is finished is returned at once.
# `calibration_share=0.75` keeps 30 of the 40 normal training images out of the training, for thresholds.

# %%
small = ["dataset.root=demo_images", "hardware=cpu", "calibration_share=0.75"]
students = train(
    "us_fast", "demo/brick", overrides=[*small, "method.image_size=64", "method.steps=32", "method.students=1"]
)
distilled = train(
    "rd",
    "demo/brick",
    overrides=[*small, "method.image_size=64", "method.epochs=5", "method.backbone=resnet18", "method.weights=random"],
)
print(students)
print(distilled)

# %% [markdown]
# ## Metrics
#
# Each has an interval, a bootstrap over the test images.  Where two intervals overlap widely, a difference may be
# chance; several seeds and `bench report` say more.

# %%
for name in ("image_auroc", "pixel_auroc", "aupro_0.3"):
    for run in (students, distilled):
        low, high = run.manifest["measurement"]["intervals"][name]
        print(f"{name:12} {run.manifest['method']:8} {run.metrics[name]:.3f}  [{low:.3f}, {high:.3f}]")

# %% [markdown]
# ## Scores
#
# One row for each test image, as a record array; `scores(as_frame=True)` gives a pandas DataFrame.  They are raw:
# their scale is the method's own.

# %%
scores = students.scores()
for kind in np.unique(scores.kind):
    print(f"{kind:10} median {np.median(scores.score[scores.kind == kind]):.4g}")
lowest = scores[scores.label == 1][np.argmin(scores.score[scores.label == 1])]
print("the defect with the lowest score:", lowest.path)

# %% [markdown]
# In Jupyter a run shows the test image with its worst mistake: the image, the defect outlined, the anomaly map.

# %%
students

# %% [markdown]
# The model itself scores any image again, here that defect.

# %%
images = Path("demo_images") / "v1-seed0"
result = next(load(students.path).predict(images / lowest.path))
print(result)
result

# %% [markdown]
# ## Measure arrays of one's own
#
# `evaluate` measures the scores and maps of any program.  Here: the mean of both methods' maps, each divided by its
# pixel threshold so that they have one scale.  The thresholds come from the images that were held out, so nothing is
# chosen on test images.

# %%
assert (scores.path == distilled.scores().path).all()  # the same images in the same order
maps = sum(run.maps() / run.thresholds["pixel"]["threshold"] for run in (students, distilled)) / 2  # [N, 64, 64]


def mask_of(row: np.record) -> np.ndarray:
    """Return the mask of a test image at the maps' size; all False for a normal image."""
    if not row.label:
        return np.zeros(maps.shape[1:], bool)
    file = images / "brick" / "ground_truth" / row.kind / f"{Path(row.path).stem}_mask.png"
    return np.asarray(Image.open(file).resize(maps.shape[:0:-1], Image.Resampling.BOX)) >= 128


measured = evaluate(maps, [mask_of(row) for row in scores], maps.max((1, 2)), scores.label)
for name in ("image_auroc", "pixel_auroc", "aupro_0.3"):
    low, high = measured.intervals[name]
    print(f"{name:12} both     {measured[name]:.3f}  [{low:.3f}, {high:.3f}]")
