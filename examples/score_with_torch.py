"""Score images with a file of `bench export RUN --format torch`: pip install torch numpy pillow.

python score_with_torch.py brick.pt2 part.png ...
"""

import json
import sys

import numpy as np
import torch
from PIL import Image, ImageOps

extra = {"anomaly_bench.json": ""}
program = torch.export.load(sys.argv[1], extra_files=extra).module()
known = json.loads(extra["anomaly_bench.json"])
threshold = torch.tensor([float("nan") if known["threshold"] is None else known["threshold"]], dtype=torch.float64)
for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16-bit grey
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    images = torch.from_numpy(np.array(image.convert("RGB")))[None]  # uint8 [1, H, W, 3]
    with torch.inference_mode():
        score, *_, p_value, label = program(images, threshold)  # the map between them, where the method has one
    verdict = {-1: "no threshold", 0: "normal", 1: "anomalous"}[int(label)]
    print(f"{path}\t{float(score)!r}\t{float(p_value):.4g}\t{verdict}")
