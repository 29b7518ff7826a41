"""Keys and values on the command line."""

from __future__ import annotations

from bad_inputs.judge import Case, Outcome, refused, said, works
from bad_inputs.worlds import WIDGETS

WORDS = [*WIDGETS, "resamples=0"]
RD = ["train", "method=rd", "method.weights=random", "method.backbone=resnet18", "method.image_size=32", "method.epochs=1",
      "dataset=folder", "dataset.root=widgets", "hardware=cpu"]  # fmt: skip


def _no(words: str, *names: str, base: list[str] = RD) -> Case:
    """words: separated by ` ; `.  names: what the line must hold; the key where nothing is given."""
    more = words.split(" ; ")
    key = more[-1].partition("=")[0].lstrip("+~")
    return Case(words[:60], [*base, *more], (refused(*(names or (key,))),), "widgets")


def _either(words: str, *outcomes: Outcome, base: list[str] = WORDS) -> Case:
    return Case(words[:60], [*base, *words.split(" ; ")], outcomes, "widgets")


def _alone(words: list[str], *names: str) -> Case:
    return Case(" ".join(words)[:60], words, (refused(*names),), "widgets")


NUMBERS = [
    *(_no(f"seed={v}") for v in ("-1", "1.5", "nan", "inf", "true", "abc", "4294967296", "1e30", "null", "[1]", "{a:1}")),
    *(_no(f"method.epochs={v}") for v in ("0", "-1", "1e20", "100000000000000000000", "true", "inf", "nan", "1.5", "null", "ten")),
    *(_no(f"method.lr={v}") for v in ("inf", "nan", "-1", "0", "true", "abc", "null", "1e400", "[0.1]")),
    *(_no(f"method.sigma={v}") for v in ("inf", "nan", "-1", "1e300")),
    *(_no(f"method.betas={v}") for v in ("[0.5]", "[0.5,1.5]", "0.5", "[]", "[0.5,0.9,0.9]", "[nan,0.9]", "[true,0.9]")),
    *(_no(f"method.image_size={v}") for v in ("0", "33", "-32", "3.2e9", "32000000")),
    *(_no(f"method.batch_size={v}") for v in ("0", "true", "1e20", "-4")),
    *(_no(f"resamples={v}") for v in ("-1", "1e9", "true", "some")),
    *(_no(f"hardware.{k}") for k in ("devices=0", "workers=-1", "workers=100000", "threads=0", "threads=true", "precision=8", "scoring_precision=8", "tf32=8", "metrics_memory_mb=-1")),
    *(_no(f"checkpoint_seconds={v}") for v in ("-1", "nan", "inf", "true")),
    *(_no(f"dataset.ignore_value={v}") for v in ("0", "256", "-1", "1.5", "true", "white")), _no("dataset.ignore_mask=7"),
    _no("force=maybe"), _no("force=2"), _no("save_maps=maybe"), _no("weights_dtype=float64"), _no("method.flatten_loss=3"),
    *(_no(f"track_test={v}") for v in ("-1", "1001", "2.5", "often")),
    _no("save_maps=float64"), *(_no(f"save_heatmaps={v}") for v in ("-1", "1.5", "1001", "some", "null")),
    _no("output_dir=null"), _no("dataset.test_share=nan"), _no("dataset.split_seed=-1"),
]  # fmt: skip
KEYS = [
    _no("sede=1", "sede", "seed"), _no("method.sigm=1", "method.sigm", "method.sigma"), _no("+method.foo=1", "method.foo"),
    _no("++method.foo=1", "method.foo"), _no("~method.lr", "method.lr"), _no("~seed", "seed"), _no("~method", "method"),
    _no("foo.bar=1"), _no("+foo=1", "foo"), _no("optimizer=adam"), _no("Seed=1", "seed"), _no("METHOD.lr=1", "method"),
    _no("method=RD", "'rd'"), _no("method=rdd", "'rd'"), _no("hardware=CPU", "'cpu'"), _no("dataset=Folder", "'folder'"),
    _no("experiment=nix", "nix"), _no("preset=smoke", "preset"), _no("logger=nix", "nix"),
    _no("csflow.hidden=64", "csflow"), _no("rd.nix=1", "nix"), _no("rdd.lr=1", "rdd"),
]  # fmt: skip
SYNTAX = [
    _no("seed", "seed"), _no("=1", "=1"), _no("seed 1", "seed 1"), _no("method.lr=(1"), _no("method.lr='0.1", "method.lr="),
    _no('method.lr="0.1', "method.lr="), _no("method.betas=[0.5", "method.betas"), _no("seed=0,1", "--multirun"),
    _no("method=rd,csflow", "--multirun"), _no("seed=range(0,3)", "--multirun"), _no("seed=choice(0,1)", "--multirun"),
    _no("dataset=glob(f*)", "dataset"), _no("method=", "method"), _no("dataset=", "dataset"), _no("seed=", "seed"),
    _no("method.lr="), _no("dataset.root="), _no("hardware=", "hardware"), _no("seed=${nix}"), _no("method.lr=${method.nix}"),
    _no("method.lr=${method.lr}"), _no("output_dir=${oc.env:NOT_SET}"), _no("seed=${", "seed"), _no("seed=${nix:1}"),
    _no("method.lr='${'", "method.lr"), _no("method.lr=0.1 ; method.nix=1", "method.nix"),
    _no("method.epochs=1e0"),
]  # fmt: skip
EITHER = [
    _either("seed=0 ; seed=0", works("widgets"), refused("seed")),
    _either("method=toy", works("widgets"), refused("method")),
    _either("seed='0'", works("widgets"), refused("seed")),
    _either("method.lr='0.05'", works("widgets"), refused("method.lr")),
    _either("method.image_size=16.0", works("widgets"), refused("method.image_size")),
    _either("force=yes", works("widgets"), refused("force")),
    Case("output_dir with a space", [*WORDS, "output_dir='out ${seed}'"], (works(),), "widgets", writes=("out 0",)),
]
SWEEPS = [
    _alone(["train", "-m", *RD[1:], "method=rd,csflow", "method.hidden=64"], "method.hidden", "csflow.hidden"),
    _alone(["train", "-m", *RD[1:], "method=rd,csflow", "csflow.nix=64"], "nix"),
    _alone(["train", "-m", *RD[1:], "seed=0,-1"], "seed"),
    _alone(["train", "-m", *RD[1:], "seed=0,0.5"], "seed"),
    _alone(["train", "-m", *RD[1:], "dataset=glob(nix*)"], "no run is asked for"),
    _alone(["train", "-m", *RD[1:], "method=rd,rdd"], "rdd"),
    _alone(["train", "-m", *RD[1:], "seed=range(3,0)"], "seed"),
    Case(
        "a sweep with a root that is not there",
        ["train", "-m", *RD[1:], "dataset.root=widgets,wigdets"],
        (said("cannot run", "wigdets", code=2, check=lambda work, out: ""),),
        "widgets",
    ),  # the other one is run
    _alone(["train", "-m", *RD[1:], "--cfg", "job"], "--cfg"),
    _alone(["train", "method=rd"], "dataset"),
    _alone(["train", "dataset=folder"], "method"),
]
FROZEN = [
    "train",
    "dataset=folder",
    "dataset.root=widgets",
    "hardware=cpu",
    "method.weights=random",
    "method.image_size=32",
]
RESNET = "method.backbone=resnet18"


def _frozen(method: str, *words: str, names: tuple[str, ...], failed: bool = False) -> Case:
    """names: what the line must hold.  failed: it is found in the images, so that a failed run remains."""
    given = [*FROZEN, f"method={method}", *words]
    return Case(f"{method} {words[-1]}", given, (refused(*names, failed=failed),), "widgets")


METHODS = [
    _frozen("padim", RESNET, "method.components=449", names=("method.components", "at most 448")),
    _frozen("padim", RESNET, "method.components=100", "method.memory_mib=1", names=("method.memory_mib", "fits")),
    _frozen("padim", RESNET, "method.components=100", "method.regularisation=0", names=("method.regularisation", "singular"), failed=True),
    _frozen("padim", RESNET, "method.components=9", "method.layers=[1,9]", names=("method.layers", "no layer 9")),
    _frozen("padim", RESNET, "method.components=9", "method.layers=[2,1]", names=("method.layers", "fine to coarse")),
    _frozen("padim", RESNET, "method.components=9", "method.layers=[layer9]", names=("method.layers", "layer9")),
    _frozen("padim_fast", "method.layers=[2]", names=("method.layers", "[1]")),
    _frozen("patchcore", RESNET, "method.memory_mib=0.001", names=("method.memory_mib", "MiB hold"), failed=True),
    _frozen("patchcore", RESNET, "method.coreset_share=0", names=("method.coreset_share",)),
    _frozen("patchcore", "method.backbone=resnet19", names=("method.backbone", "resnet18")),
    _frozen("us_shallow", "method.clusters=100000", names=("method.clusters",)),
    _frozen("us_shallow", "method.score=ocsvm", names=("method.score",)),
    _frozen("rd", RESNET, "method.steps=5", names=("method.epochs", "method.epochs=null")),
    _frozen("stfpm_fast", "method.steps=null", names=("method.epochs", "method.steps=N")),
    _frozen("glf_fast", "method.backbone=resnet18", "method.calibrate=false", names=("method.val_share",)),
]  # fmt: skip
CASES = [*NUMBERS, *KEYS, *SYNTAX, *EITHER, *SWEEPS, *METHODS]
