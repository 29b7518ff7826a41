"""Score images with a file of `bench export RUN --format onnx`: pip install onnxruntime pillow.

python score_with_onnxruntime.py brick.onnx part.png ...
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

onnxruntime.set_default_logger_severity(3)  # else it remarks that the threshold can be overridden
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16-bit grey
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    images = np.asarray(image.convert("RGB"))[None]  # uint8 [1, H, W, 3]
    score, p_value, label = session.run(["score", "p_value", "label"], {"images": images})
    verdict = {-1: "no threshold", 0: "normal", 1: "anomalous"}[int(label[0])]
    print(f"{path}\t{float(score[0])!r}\t{float(p_value[0]):.4g}\t{verdict}")
