"""What earlier versions called things: their runs keep their ids, and who types an old name is told the new one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

MODULES = {"anomaly_bench.data.": "anomaly_bench.datasets."}  # begin the names of classes that have moved
KEYS = {  # of methods, in dotted form
    "teacher": "teacher.file",
    "teacher_images": "teacher.images",
    "teacher_layer": "teacher.layer",
    "teacher_target_size": "teacher.target_size",
    "teacher_losses": "teacher.losses",
    "teacher_margin": "teacher.margin",
    "teacher_compactness": "teacher.compactness",
    "teacher_steps": "teacher.steps",
    "teacher_batch_size": "teacher.batch_size",
    "teacher_lr": "teacher.lr",
    "teacher_weight_decay": "teacher.weight_decay",
    "decoder_layers": "teacher.decoder_layers",
}
FORMER_KEYS = {new: old for old, new in KEYS.items()}
ADDED_KEYS: dict[str, dict[str, Any]] = {  # class -> keys of later versions, and what changes nothing
    "Folder": {"category": None},
    "ReverseDistillation": {"steps": None},
    "CSFlow": {"steps": None},
    "UninformedStudents": {"steps": None},
    "GlancingAtThePatch": {"iad_patches": "clean", "global_normalised": True, "stain_brightness": "dark"},
}
DROPPED_KEYS = {"SimpleNet": {"oracle_states"}}  # class -> keys of earlier versions that changed no result
ADDED_TO_BLOCKS: dict[str, Any] = {  # keys that earlier versions lacked, and what changes nothing
    "teacher.target": "patch",
    "teacher.crop_size": None,
    "teacher.standardise": False,
    "teacher.decay": False,
    "teacher.start_file": None,
    "teacher.zoom": (4, 16),
    "teacher.shift": 0.25,
    "teacher.noise": 0.1,
    "teacher.grey": 0.1,
}


def present_class(target: str) -> str:
    """Return the name that a class of this package has now, from the one that an earlier version wrote."""
    moved = ((old, new) for old, new in MODULES.items() if target.startswith(old))
    return next((new + target.removeprefix(old) for old, new in moved), target)


def former_class(target: str) -> str:
    """Return the name that earlier versions wrote for a class; the inverse of `present_class`."""
    moved = ((old, new) for old, new in MODULES.items() if target.startswith(new))
    return next((old + target.removeprefix(new) for old, new in moved), target)


def present_keys(method: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's part of a configuration, whichever version wrote it, with its present keys: `teacher.steps`."""
    found: dict[str, Any] = {}
    for key, value in method.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{name}": each for name, each in value.items()}
        else:
            found[KEYS.get(key, key)] = value
    return found


def present_method(method: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same with blocks of keys, {"teacher": {"steps": 10}}, and with keys that the method got later."""
    found: dict[str, Any] = dict(added_keys(method))
    dropped = DROPPED_KEYS.get(str(method.get("_target_")).rpartition(".")[2], set())
    for key, value in present_keys(method).items():
        if key in dropped:
            continue
        block, _, name = key.rpartition(".")
        (found.setdefault(block, {}) if block else found)[name] = value
    if str(found.get("_target_")).endswith(".GlancingAtThePatch") and not found.get("calibrate", True):
        found["val_share"] = 0  # earlier versions set images aside that nothing read
    return found


def added_keys(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that earlier versions of a method or data set of this package had not, with the value that
    changes nothing.

    With that value they do not count for the ids of runs.
    """
    target = str(part.get("_target_"))
    return ADDED_KEYS.get(target.rpartition(".")[2], {}) if target.startswith("anomaly_bench.") else {}


def without_added(block: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a block's values without the keys that earlier versions lacked and that say what these did."""
    names = {f"{block}.{name}": name for name in values}
    left_out = {name for key, name in names.items() if key in ADDED_TO_BLOCKS and ADDED_TO_BLOCKS[key] == values[name]}
    return {name: value for name, value in values.items() if name not in left_out}


def renamed(key: str, known: Collection[str]) -> str:
    """Return a hint with the present key for a former one, `method.teacher_steps`; empty unless it is in `known`."""
    group, _, name = key.rpartition(".")
    present = f"{group}.{KEYS[name]}" if name in KEYS else ""
    return f"it is {present} now" if present in known else ""
