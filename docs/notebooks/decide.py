# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # From a run to verdicts on new images
#
# A small run on the generated images of `demo/brick`, a threshold with a promise, and verdicts on images that neither
# training nor calibration has seen.  Nothing is downloaded.  The network is tiny, so that this takes seconds: what it
# finds says nothing about the method.
#
# This file is a script, `python decide.py`, and a notebook: Jupyter opens it with jupytext.

# %%
import csv
from pathlib import Path

import numpy as np
from PIL import Image

from anomaly_bench import load, train
from anomaly_bench.datasets.textures import generate
from anomaly_bench.inference.threshold import ThresholdRequest, set_threshold
from anomaly_bench.metrics.calibration import benjamini_hochberg, normals_needed

# %% [markdown]
# ## Train, with calibration images
#
# `calibration_share=0.75` keeps 30 of the 40 normal training images out of the training.  The same run as in
# `compare.py`: where that has been run in this folder, the run is found finished.

# %%
small = ["dataset.root=demo_images", "hardware=cpu", "calibration_share=0.75"]
run = train("us_fast", "demo/brick", overrides=[*small, "method.image_size=64", "method.steps=32", "method.students=1"])
print(run)

# %% [markdown]
# ## A threshold and what it promises
#
# The scores of n held-out normal images bound the share of all normal images above one of them, whatever the scores'
# distribution.  A low rate needs many images:

# %%
for rate in (0.1, 0.05, 0.01):
    print(f"at most {rate:.0%} false alarms, with 95 % confidence: {normals_needed(rate, 0.95)} normal images")

# %% [markdown]
# So 5 %, what a run is calibrated for where nothing else is requested, cannot be promised with 30 images, but 10 %
# can. `set_threshold` is `bench threshold RUN --false-alarms 0.1`.  The threshold is stored with the run.

# %%
thresholds = set_threshold(run.path, ThresholdRequest(rate=0.1))
image = thresholds["image"]
print(f"scores above {image['threshold']:.4g} are anomalous; {image['promised']:.1%} promised by {image['n']} images")

# %% [markdown]
# ## New images
#
# The same photograph with another seed: other crops, other defects.  The normal ones come from the part of the
# photograph that the calibration images come from.  The promise is made for such images only; the demo's normal
# *test* images come from another part.
#
# `predict` takes a file, a folder, a pattern, an array or a list of these, and yields one result at a time.

# %%
images = generate(Path("demo_images"), "brick", seed=1) / "brick"
model = load(run.path)
print(model)
normals = list(model.predict(images / "train" / "good"))
defects = list(model.predict([images / "test" / kind for kind in ("foreign", "hole", "scratch", "stain")]))
print(f"{sum(result.label for result in normals)} of {len(normals)} normal images are called anomalous")
print(f"{sum(result.label for result in defects)} of {len(defects)} defects are found")

# %% [markdown]
# A result has the raw score, its p-value, the verdict and the anomaly map.  The p-value estimates, from above,
# the share of normal images that score as high: the smallest that 30 calibration images can give is 1/31.  In
# Jupyter a result is a picture, with the region above the pixel threshold outlined.

# %%
worst = max(defects, key=lambda result: result.score)
print(worst)
worst

# %% [markdown]
# The map has the model's size; `map_at_source` brings it to the image's own.

# %%
at_source = worst.map_at_source()
row, column = np.unravel_index(at_source.argmax(), at_source.shape)
print(f"map {worst.map.shape}, at the image's size {at_source.shape}; its maximum is at row {row}, column {column}")

# %% [markdown]
# ## Arrays, and images that are not like the training images
#
# A camera gives arrays: uint8 [H, W, 3].  An image that is darker, less sharp or of another shape than the training
# images is scored and marked: what a threshold promises does not hold for it.

# %%
photo = np.asarray(Image.open(normals[0].path).convert("RGB"))
as_it_is, darker = model.predict([photo, photo // 2])
print(as_it_is)
print(darker)

# %% [markdown]
# What cannot be read gives a result too, which says why, and the others are scored.

# %%
Path("broken.png").write_bytes(b"no image")
(broken,) = model.predict("broken.png")
print(broken)

# %% [markdown]
# ## A whole lot at once
#
# Among many images a few normal ones lie above any threshold.  Benjamini and Hochberg's rule looks at all p-values of
# a lot: on average at most the given share of what it rejects is normal.

# %%
lot = [*normals[:6], *defects]
rejected = benjamini_hochberg(np.array([result.p_value for result in lot]), 0.2)
print(f"{rejected.sum()} of {len(lot)} images are rejected")

# %% [markdown]
# ## Keep the verdicts
#
# `bench predict RUN SOURCE --out DIR --overlays` writes such a table, and the pictures, from the command line.

# %%
with Path("verdicts.csv").open("w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["path", "score", "p_value", "label", "unlike", "error"])
    for result in [*normals, *defects, as_it_is, darker, broken]:
        table.writerow([result.path, result.score, result.p_value, result.label, result.unlike, result.error])
