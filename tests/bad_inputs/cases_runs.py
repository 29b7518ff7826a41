"""What is stored of runs: damaged files, files of other people, checkpoints of an interrupted training."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
from bad_inputs import harms as h
from bad_inputs.judge import Case, Outcome, refused, said, works
from bad_inputs.worlds import BOTTLE, UNFINISHED

RUN = "outputs/toy/mvtec/bottle/s0-*"  # the words' and the harms' glob; the world `run` has s1-* too
STORED = ("metrics.json", "scores.csv", "maps.npy", "curves.json", "weights.safetensors", "config.yaml", "images.csv")
CHECKPOINT = "outputs/*/*/*/*/checkpoints/template/last.ckpt"
DAMAGES = {"a flipped bit": h.flip, "half": h.cut, "zeros": h.zero, "nothing": lambda p: p.write_bytes(b"")}
LIST, VERIFY = ["list", "runs"], ["list", "runs", "--verify"]


def _run(name: str, words: list[str], harm: h.Harm | None, *outcomes: Outcome) -> Case:
    return Case(name, words, outcomes, "run", harm)


def _damaged(file: str) -> list[Case]:
    named = said("damaged", file, code=1)
    cases = [
        _run(f"{file} of a run: {name}: list runs --verify", VERIFY, h.on(f"{RUN}/{file}", do), named)
        for name, do in DAMAGES.items()
    ]
    cases += [_run(f"{file} of a run is gone: list runs --verify", VERIFY, h.remove(f"{RUN}/{file}"), named)]
    measured = (refused(file),) if file not in ("metrics.json", "curves.json") else (works(check=lambda work, out: ""),)
    cases += [
        _run(f"{file} of a run: a flipped bit: eval", ["eval", f"@{RUN}"], h.on(f"{RUN}/{file}", h.flip), *measured)
    ]
    if file not in ("maps.npy", "weights.safetensors"):
        cases += [_run(f"{file} of a run: a flipped bit: train", BOTTLE, h.on(f"{RUN}/{file}", h.flip), refused(file))]
    return cases


def _manifest(name: str, harm: h.Harm, *outcomes: Outcome) -> list[Case]:
    at = lambda words: f"manifest.json of a run: {name}: {words[0]}"  # noqa: E731
    listed = outcomes or (said("damaged", code=0), said("damaged", code=1))
    return [
        _run(at(LIST), LIST, harm, *listed),
        _run(at(["eval"]), ["eval", f"@{RUN}"], harm, refused("s0-")),
        _run(at(["train"]), BOTTLE, harm, refused("s0-")),
    ]


def _key(key: str, value: object) -> h.Harm:
    def go(path: Path) -> None:
        manifest = json.loads(path.read_text())
        manifest[key] = value
        path.write_text(json.dumps(manifest))

    return h.on(f"{RUN}/manifest.json", go)


def _checkpoint(name: str, harm: h.Harm, *outcomes: Outcome) -> Case:
    return Case(
        f"last.ckpt: {name}",
        UNFINISHED,
        outcomes or (said("last.ckpt", same="slow"),),
        "unfinished",
        harm,
        writes=("notes",),
    )


def _pickle(path: Path) -> None:
    from bad_inputs.cases_datasets import Shell

    path.write_bytes(pickle.dumps(Shell()))


def _saved(path: Path) -> None:
    import torch
    from bad_inputs.cases_datasets import Shell

    torch.save({"state_dict": Shell()}, path)


def _objects(path: Path) -> None:
    from bad_inputs.cases_datasets import Shell

    np.save(path, np.array([Shell()], object), allow_pickle=True)


def _contents(text: str | bytes) -> h.Harm:
    return h.on(f"{RUN}/manifest.json", lambda p: p.write_bytes(text if isinstance(text, bytes) else text.encode()))


ACCEPT = ["eval", f"@{RUN}", "--accept-changes"]
CASES = [
    *(case for file in STORED for case in _damaged(file)),
    *(case for name, text in {
        "no content": "", "a list": "[]", "null": "null", "bytes": bytes(range(256)), "half": '{"format": 2, ', "no keys": "{}",
    }.items() for case in _manifest(name, _contents(text))),
    _run("a category that leads out: report", ["report"], _key("category", "../../../evil"), said("evil"), refused("evil"), said("damaged")),
    _run("a method that leads out: report", ["report"], _key("method", "../../../evil"), said("evil"), refused("evil"), said("damaged")),
    _run("a status that is none: list", LIST, _key("status", "nix"), said("damaged"), said("damaged", code=1)),
    _run("a format of the future: train", BOTTLE, _key("format", 99), refused("99")),
    _run("a seed that is a list: list", LIST, _key("seed", [1]), said("s0-"), said("damaged", code=1)),
    _run("config.yaml with os.system: eval", ACCEPT, h.change(f"{RUN}/config.yaml", "anomaly_bench.datasets.mvtec.MVTec", "os.system"), refused("_target_", "os.system")),
    _run("config.yaml with a class of the current folder: eval", ACCEPT, h.both(
        h.content("evil.py", "open('ran', 'w')\nclass Evil: ..."), h.change(f"{RUN}/config.yaml", "anomaly_bench.datasets.mvtec.MVTec", "evil.Evil")), refused("evil.Evil")),
    _run("config.yaml with a tag of Python: eval", ACCEPT, h.on(f"{RUN}/config.yaml", lambda p: p.write_text("a: !!python/object/apply:os.system ['touch ran']\n")), refused("config.yaml")),
    _run("maps.npy with os.system: eval", ACCEPT, h.on(f"{RUN}/maps.npy", _objects), refused("maps.npy")),
    _run("maps.npy with os.system, as a pickle: eval", ACCEPT, h.on(f"{RUN}/maps.npy", _pickle), refused("maps.npy")),
    _run("the index with os.system: list", LIST, h.both(h.content("outputs/.index.json", ""), h.on("outputs/.index.json", _pickle)), said("done", "s0-")),
    _run("eval with a root that is not there", ["eval", f"@{RUN}", "dataset.root=nix"], None, refused("nix")),
    _run("eval with a key that is none", ["eval", f"@{RUN}", "dataset.nix=1"], None, refused("dataset.nix")),
    _run("eval of other images", ["eval", f"@{RUN}"], h.on("data/mvtec/bottle/test/hole/000.png", h.pixels(lambda a: 255 - a)), refused("hole/000.png")),
    _run("eval of an inverted mask", ["eval", f"@{RUN}"], h.on("data/mvtec/bottle/ground_truth/hole/000_mask.png", h.pixels(lambda a: 255 - a)), refused("hole/000")),
    _run("train again on other images", BOTTLE, h.on("data/mvtec/bottle/train/good/000.png", h.pixels(lambda a: 255 - a)), refused("train/good/000.png")),
    _run("train again with inverted masks", BOTTLE, h.on("data/mvtec/bottle/ground_truth/*/*", h.pixels(lambda a: 255 - a)), refused("6 of 22")),
    _run("train again without an image", BOTTLE, h.remove("data/mvtec/bottle/train/good/000.png"), refused("train/good/000.png")),
    *(_checkpoint(name, h.on(CHECKPOINT, do)) for name, do in DAMAGES.items()),
    _checkpoint("gone", h.remove(CHECKPOINT)),
    _checkpoint("pickle with os.system", h.on(CHECKPOINT, _pickle)),
    _checkpoint("torch.save of os.system", h.on(CHECKPOINT, _saved)),
    _checkpoint("text", h.on(CHECKPOINT, lambda p: p.write_text("hello"))),
    _checkpoint("this one and the one before it", h.on(CHECKPOINT.replace("last", "*"), h.cut), said("starts anew", same="slow")),
    _checkpoint("all of them are gone", h.remove(CHECKPOINT.replace("last", "*")), works("slow")),
    _checkpoint("left by a process that died", h.on(CHECKPOINT, lambda p: p.with_name(".last.ckpt.partial").write_text("x")), works("slow")),
]  # fmt: skip
