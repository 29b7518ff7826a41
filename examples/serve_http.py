"""Score images over HTTP with a file of `bench export RUN --format onnx`.

pip install fastapi uvicorn onnxruntime pillow
python serve_http.py brick.onnx [PORT]
curl --data-binary @part.png http://127.0.0.1:8000/score
curl http://127.0.0.1:8000/health
"""

import io
import json
import math
import sys

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image, ImageOps

onnxruntime.set_default_logger_severity(3)  # else it remarks that the threshold can be overridden
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["anomaly_bench"])
about["calibration"] = len(about["calibration"] or [])  # scores: how many there are
app = FastAPI(title=f"{about['run']['method']} on {about['run']['dataset']}")
LARGEST = 64 * 2**20  # bytes of a request


def decoded(content: bytes) -> np.ndarray:
    """Return an image as uint8 [1, H, W, 3].  Raises HTTPException for what is none."""
    try:
        opened = Image.open(io.BytesIO(content))
        image, pages = ImageOps.exif_transpose(opened), getattr(opened, "n_frames", 1)
    except Exception as error:  # Pillow's decoders raise nearly anything
        raise HTTPException(400, f"not an image that can be read: {error}") from error
    if pages > 1 or image.mode == "F" or (image.mode == "I" and opened.format != "PNG"):
        raise HTTPException(415, f"one image of 8 or 16 bits is read; {pages} of mode {image.mode} given")
    if image.mode.startswith("I"):  # 16-bit grey
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    return np.asarray(image.convert("RGB"))[None]


def scored(content: bytes) -> dict[str, float | int | None]:
    """Return what the file says of an image; null: it has no calibration scores, or no threshold."""
    found = session.run(["score", "p_value", "label"], {"images": decoded(content)})
    score, p_value, label = (each.item() for each in found)
    return {"score": score, "p_value": None if math.isnan(p_value) else p_value, "label": None if label < 0 else label}


@app.post("/score")
async def score(request: Request) -> dict[str, float | int | None]:
    """Score the image that the body holds."""
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > LARGEST:
            raise HTTPException(413, f"more than {LARGEST} bytes")
    return await run_in_threadpool(scored, content)


@app.get("/health")
def health() -> dict[str, object]:
    """Say what is served."""
    return about


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]) if len(sys.argv) > 2 else 8000)
