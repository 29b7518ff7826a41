"""Finished runs as earlier versions wrote them."""

from __future__ import annotations

import hashlib
import json

from omegaconf import OmegaConf

from anomaly_bench.former_names import ADDED_TO_BLOCKS, FORMER_KEYS, added_keys
from anomaly_bench.runs.folder import RunFolder


def with_former_keys(folder: RunFolder) -> None:
    """Give a run's config.yaml the keys that stood in the place of the block `teacher`, and none that came later."""
    file, manifest = folder.path / "config.yaml", folder.path / "manifest.json"
    cfg, content = OmegaConf.load(file), json.loads(manifest.read_text())
    for key in added_keys(cfg.method):
        del cfg.method[key]
    block = {f"teacher.{key}": value for key, value in cfg.method.pop("teacher").items()}
    cfg.method.update({FORMER_KEYS[key]: value for key, value in block.items() if key not in ADDED_TO_BLOCKS})
    file.write_text(OmegaConf.to_yaml(cfg))
    content["files"]["config.yaml"] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content))
