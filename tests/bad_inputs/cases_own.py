"""Methods and data sets of a user's own: their yaml files, their classes, and files of weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bad_inputs import harms as h
from bad_inputs.cases_overrides import RD
from bad_inputs.judge import Case, Outcome, refused, said, works
from bad_inputs.own_files import DATASET, METHOD

BASE = ["train", "--config-dir", "conf", "method=mine", "hardware=cpu", "resamples=0", "save_heatmaps=false"]
OWN = [*BASE, "dataset=folder", "dataset.root=widgets"]
FLAT = [*BASE, "dataset=flat"]
METHOD_YAML, DATASET_YAML = "conf/method/mine.yaml", "conf/dataset/flat.yaml"
HEAD = "_target_: mine.Mine\nname: mine\n"


def _own(name: str, harm: h.Harm | None, *outcomes: Outcome, words: list[str] = OWN) -> Case:
    return Case(f"own method: {name}", words, outcomes, "own", harm)


def _yaml(name: str, text: str | bytes, *names: str) -> Case:
    """The method's yaml as a whole."""
    return _own(name, h.content(METHOD_YAML, text), refused(*names))


def _line(name: str, old: str, new: str, *names: str) -> Case:
    """One line of the method's yaml."""
    return _own(name, h.change(METHOD_YAML, old, new), refused(*names))


def _class(name: str, old: str, new: str, *names: str, failed: bool = False) -> Case:
    """One piece of the method's class."""
    assert old in METHOD, old
    return _own(name, h.change("conf/mine.py", old, new), refused(*names, failed=failed))


def _set(name: str, old: str, new: str, *names: str, failed: bool = False) -> Case:
    """One piece of the data set's class."""
    assert old in DATASET, old
    return Case(
        f"own data set: {name}", FLAT, (refused(*names, failed=failed),), "own", h.change("conf/flat.py", old, new)
    )


def _weights(name: str, harm: h.Harm | None, *outcomes: Outcome, file: str = "resnet18.safetensors") -> Case:
    words = [f"method.weights={file}" if word == "method.weights=random" else word for word in RD]
    outcomes = outcomes or (refused("method.weights", file), refused("method.weights", file, failed=True))
    return Case(f"weights: {name}", words, outcomes, "weights", harm)


def _tensors(change: Callable[[dict], object]) -> h.Harm:  # type: ignore[type-arg]
    def go(work: Path) -> None:
        from safetensors.torch import load_file, save_file

        state = load_file(work / "resnet18.safetensors")
        change(state)
        save_file(state, work / "resnet18.safetensors")

    return go


def _pickled(what: str, file: str = "w.pth") -> h.Harm:
    def go(work: Path) -> None:
        import torch
        from bad_inputs.cases_datasets import Shell
        from safetensors.torch import load_file

        values = {"shell": Shell(), "list": [1, 2], "weights": load_file(work / "resnet18.safetensors")}
        torch.save(values[what], work / file)

    return go


RETURN = "return Scores(image=maps.flatten(1).amax(1), map=maps)"
YAML = [
    _own("as it should be", None, works()),
    _yaml("tabs", f"{HEAD}\timage_size: 16\n", "mine.yaml:3"),
    _yaml("a key twice", f"{HEAD}image_size: 16\nimage_size: 32\nbatch_size: 4\nepsilon: 0.01\n", "mine.yaml:4", "image_size"),
    _yaml("an open bracket", f"{HEAD}image_size: [16\n", "mine.yaml"),
    _yaml("Latin-1", f"{HEAD}image_size: 16 # größe\n".encode("latin-1"), "mine.yaml", "UTF-8"),
    _yaml("UTF-16", f"{HEAD}image_size: 16\n".encode("utf-16"), "mine.yaml"),
    _yaml("bytes", bytes(range(256)), "mine.yaml"),
    _yaml("no content", "", "method"),
    _yaml("a list", "- 1\n- 2\n", "mine.yaml"),
    _yaml("a word", "hello\n", "mine.yaml"),
    _yaml("numbers as keys", f"{HEAD}1: 2\n", "mine.yaml"),
    _yaml("a tag of Python", f"{HEAD}image_size: !!python/object/apply:os.system ['touch ran']\n", "mine.yaml"),
    _yaml("defaults that are not there", f"defaults: [nix]\n{HEAD}", "nix"),
    _yaml("defaults that lead back", f"defaults: [mine]\n{HEAD}", "defaults"),
    _own("a variant of csflow", h.content("conf/method/mine.yaml", "defaults: [csflow]\nhidden: 64\n"), works(), words=["show", "--config-dir", "conf", "method=mine"]),
    _line("without _target_", "_target_: mine.Mine\n", "", "_target_"),
    _line("without name", "name: mine\n", "", "name"),
    *(_line(f"_target_ {target}", "mine.Mine", target, "method._target_", target) for target in (
        "os.system", "mine.helper", "mine.Mien", "mine.Method", "torch.nn.Identity", "nix.Nix", "Mine", "anomaly_bench.errors.UserError", "flat.Flat",
    )),
    *(_line(f"name {name}", "name: mine", f"name: {name}", "method.name") for name in (
        "../../evil", "a/b", "'a b'", "x" * 65, ".hidden", "-x", "'a\\nb'",
    )),
    _line("a number as its name", "name: mine", "name: 5", "name"),
    _line("a key too many", "epsilon:", "foo: 1\nepsilon:", "method.foo"),
    _line("a key that is missing", "epsilon: 0.01", "", "method.epsilon"),
    _line("a word for a number", "0.01", "abc", "method.epsilon", "mine.yaml:5"),
    _line("infinity", "0.01", ".inf", "method.epsilon", "mine.yaml:5"),
    _line("NaN", "0.01", ".nan", "method.epsilon", "mine.yaml:5"),
    _line("nothing for a number", "0.01", "null", "method.epsilon", "mine.yaml:5"),
    _line("a list for a number", "0.01", "[0.01]", "method.epsilon", "mine.yaml:5"),
    _line("a fraction for a whole number", "batch_size: 4", "batch_size: 4.5", "method.batch_size", "mine.yaml:4"),
    _line("a truth value for a number", "batch_size: 4", "batch_size: true", "method.batch_size", "mine.yaml:4"),
    _line("a value that is not there", "0.01", "${nix}", "nix"),
    _own("no --config-dir", None, refused("mine"), words=["train", *OWN[3:]]),
    _own("--config-dir that is not there", None, refused("nix"), words=["train", "--config-dir", "nix", *OWN[3:]]),
    _own("--config-dir is a file", h.content("f", "x"), refused("--config-dir", "f"), words=["train", "--config-dir", "f", *OWN[3:]]),
    _own("--config-dir without a value", None, refused("--config-dir"), words=["train", "--config-dir"]),
    _own("its class is in the current folder", h.move("conf/mine.py", "mine.py"), refused("method._target_")),
]  # fmt: skip
CLASSES = [
    _class("does not parse", "class Mine(Method):", "class Mine(Method:", "mine.py"),
    _class("raises when it is imported", "def helper() -> None: ...", "1 / 0", "conf/mine.py:"),
    _class("ends Python when it is imported", "def helper() -> None: ...", "raise SystemExit", "mine"),
    _class("imports what is not there", "import torch\n", "import torch, nixmodule\n", "nixmodule"),
    _class("raises when it is built", "super().__init__()", "super().__init__(); 1 / 0", "conf/mine.py:"),
    _class("no types", "epsilon: float", "epsilon", "epsilon"),
    _class("any arguments", "epsilon: float", "epsilon: float, **more: int", "more"),
    _class("a type that is not there", "epsilon: float", "epsilon: Nix", "Nix"),
    _class("no batch size", "self.image_size, self.batch_size, self.epsilon = image_size, batch_size, epsilon", "self.image_size, self.epsilon = image_size, epsilon", "batch_size"),
    _class("an image size of 0", "self.image_size, self.batch_size, self.epsilon = image_size,", "self.image_size, self.batch_size, self.epsilon = 0,", "image_size"),
    _class("no score", "def score(", "def scores(", "score"),
    _class("a share that leaves no image", "super().__init__()", "super().__init__(); self.val_share = 1.0", "val_share"),
    _class("stages without stages", "yield from ()", "yield 5", "stages", failed=True),
    _class("stages are None", "yield from ()", "", "stages", failed=True),
    *(_class(f"score: {name}", RETURN, text, ".score", failed=True) for name, text in {
        "None": "return None", "a tensor": "return maps", "a map for a score": "return Scores(image=maps, map=maps)",
        "one score too few": "return Scores(image=maps.flatten(1).amax(1)[1:], map=maps)",
        "maps of another size": "return Scores(image=maps.flatten(1).amax(1), map=maps[..., :8])",
        "maps with a channel": "return Scores(image=maps.flatten(1).amax(1), map=maps[:, None])",
        "whole numbers": "return Scores(image=maps.flatten(1).amax(1).int(), map=maps)",
        "a list": "return Scores(image=[1.0] * len(maps), map=maps)",
        "components that are none": "return Scores(image=maps.flatten(1).amax(1), map=maps, components=[1])",
        "a component with a name that leads out": "s = Scores(image=maps.flatten(1).amax(1), map=maps); return Scores(s.image, s.map, {'../x': s})",
    }.items()),
    *(_class(f"score: {name}", RETURN, text, "not finite", failed=True) for name, text in {
        "NaN": "return Scores(image=maps.flatten(1).amax(1) * float('nan'), map=maps)",
        "infinite maps": "return Scores(image=maps.flatten(1).amax(1), map=maps / 0)",
    }.items()),
]  # fmt: skip
SETS = [
    Case("own data set: as it should be", FLAT, (works(),), "own"),
    *(_set(f"records are {name}", "return records", f"return {text}", "Flat.records") for name, text in {
        "None": "None", "an iterator": "iter(records)", "paths": "found", "twice the same": "records + records",
    }.items()),
    _set("there are none", "return records", "return []", "has no train images"),
    _set("an absolute path", "str(f.relative_to(self.root))", "str(f.resolve())", "Flat.records"),
    _set("a path that leads out", "str(f.relative_to(self.root))", "'../' + f.name", "Flat.records"),
    _set("a kind with a slash", "f.parent.name", "'a/' + f.parent.name", "kind"),
    _set("no kind", "f.parent.name", "''", "kind"),
    _set("a kind that is a number", "f.parent.name", "1", "kind"),
    _set("a text for an image", "f.parent.name, f)", "f.parent.name, str(f))", "image"),
    _set("an image that is not there", "f.parent.name, f)", "f.parent.name, f.with_suffix('.nix'))", ".nix"),
    _set("arrays of float", "f.parent.name, f)", "f.parent.name, np.zeros((8, 8, 3)))", "float", failed=True),
    _set("a mask that is a text", "f.parent.name, f)", "f.parent.name, f, 'x')", "mask"),
    _set("raises when it is built", "self.root = Path(root)", "1 / 0", "conf/flat.py:"),
    Case("own data set: only normal images", FLAT, (said("undefined: no image is anomalous"),), "own",
         h.change("conf/flat.py", "return records", "return [r for r in records if r.kind == 'good']")),
    Case("own data set: only defective images", FLAT, (said("undefined: no image is normal"),), "own",
         h.change("conf/flat.py", "return records", "return [r for r in records if split == 'train' or r.kind != 'good']")),
    _set("no Dataset", "class Flat(Dataset)", "class Flat", "dataset._target_"),
]  # fmt: skip
WEIGHTS = [
    _weights("as they should be", None, works()),
    _weights("not there", h.remove("resnet18.safetensors")),
    _weights("a folder", h.both(h.remove("resnet18.safetensors"), h.folder("resnet18.safetensors"))),
    _weights("no content", h.content("resnet18.safetensors", "")),
    _weights("text", h.content("resnet18.safetensors", "hello")),
    _weights("half a file", h.on("resnet18.safetensors", h.cut)),
    _weights("zeros", h.on("resnet18.safetensors", h.zero)),
    _weights("NaN in one tensor", _tensors(lambda s: s["layer1.0.conv1.weight"].fill_(float("nan")))),
    _weights("a tensor is missing", _tensors(lambda s: s.pop("layer1.0.conv1.weight"))),
    _weights("a tensor of another shape", _tensors(lambda s: s.update({"layer1.0.conv1.weight": s["conv1.weight"][:1].clone()}))),
    _weights("whole numbers", _tensors(lambda s: s.update({"layer1.0.conv1.weight": s["layer1.0.conv1.weight"].int()}))),
    _weights("pickle with os.system", _pickled("shell"), file="w.pth"),
    _weights("pickle of a list", _pickled("list"), file="w.pth"),
    _weights("pickle of weights", _pickled("weights"), works(), file="w.pth"),
    Case("teacher: pickle with os.system", ["train", "method=us_fast", "method.teacher.file=w.pth", "dataset=folder", "dataset.root=widgets", "hardware=cpu"],
         (refused("method.teacher.file", "w.pth"), refused("method.teacher.file", "w.pth", failed=True)), "weights", _pickled("shell")),
    _weights("a file called random", h.content("random", "x"), works(), file="random"),
    _weights("an unknown user", None, refused("method.weights"), file="~nobody_here/w.pth"),
    _weights("no word", None, refused("method.weights"), said(), file="''"),
]  # fmt: skip
CASES = [*YAML, *CLASSES, *SETS, *WEIGHTS]
