"""The other verbs: their words, maps of other programs, and streams that cannot be written."""

from __future__ import annotations

import numpy as np
from bad_inputs import harms as h
from bad_inputs.judge import Case, Outcome, refused, said, works
from bad_inputs.worlds import save

MAPS = ["eval", "--maps", "maps", "--masks", "masks", "--resamples", "0"]


def _no(words: str, *names: str, world: str = "empty") -> Case:
    """names: what the line must hold; the last word where nothing is given."""
    return Case(f"bench {words}"[:60], words.split(), (refused(*(names or (words.split()[-1],))),), world)


def _maps(name: str, harm: h.Harm | None, *outcomes: Outcome, more: tuple[str, ...] = ()) -> Case:
    return Case(f"maps: {name}", [*MAPS, *more], outcomes, "maps", harm)


def _array(at: str, array: np.ndarray, **options: bool) -> h.Harm:
    return lambda work: np.save(work / at, array, **options)


def _stream(name: str, words: str, outcome: Outcome, stdout: str, world: str = "run") -> Case:
    return Case(f"{name}: bench {words}", words.split(), (outcome,), world, stdout=stdout)


WORDS = [
    _no("trian", "'train'"), _no("--nonsense"), _no("help nix"), _no("--version nix"), _no("Train", "'train'"),
    _no("list", "bench list"), _no("list nix"), _no("list methods --nonsense"), _no("list methods nix"),
    _no("list runs status=faild", "'failed'"), _no("list runs foo=1", "foo"), _no("list runs a b", "'b'"),
    _no("list runs seed=x", "x"), _no("list runs --nix"), _no("list runs nix"),
    _no("list runs --interval 3", "--interval", "--watch"), _no("list runs --watch --verify", "--verify"), _no("list runs --watch nix"),
    _no("list runs --watch --interval x", "--interval", "x"), _no("list runs --watch --interval -1", "--interval"), _no("list runs --watch method=rdd", "'rdd'", world="run"),
    _no("train --quiet=yes", "--quiet"),
    _no("list runs method=rdd", "'rd'", world="run"),
    _no("list runs dataset=mvtex/bottle", "mvtec/bottle", world="run"),
    _no("show", "bench show"), _no("show method=rdd", "'rd'"), _no("show nix"), _no("show --nix"),
    _no("show method=rd method.epochs=0", "method.epochs"), _no("show method=rd method.nix=1", "method.nix"),
    _no("show method=rd seed=0,1", "seed"), _no("show dataset=mvtec", "mvtec/bottle"), _no("show --config-dir", "--config-dir"),
    _no("show --config-dir nix method=rd", "nix"), _no("show method=rd csflow.hidden=64", "csflow"),
    _no("report nix"), _no("report a b", "'b'"), _no("report --nix"), _no("report", "outputs"), _no("report --figures png", "'png'"),
    _no("eval", "bench eval"), _no("eval nix"), _no("eval --nix"), _no("eval --maps", "--maps"), _no("eval --maps maps", "--masks", world="maps"),
    _no("eval --maps nix --masks masks", "nix", world="maps"), _no("eval --maps maps --masks nix", "nix", world="maps"),
    _no("eval maps --maps maps --masks masks", "--maps", world="maps"), _no("eval maps", "maps", world="maps"), _no("eval maps --ignore-value 7", "--ignore-value", world="maps"), _no("eval maps --as theirs", "--as", world="maps"),
    *(_no(f"eval --maps maps --masks masks {more}", names, world="maps") for more, names in {
        "--ignore-value 0": "--ignore-value", "--ignore-value 256": "256", "--ignore-value x": "x",
        "--resamples -1": "--resamples", "--resamples x": "x", "--resamples 1e9": "1e9", "--memory-mb x": "x", "--threads 0": "0",
        "--write-tiff t": "--write-tiff", "--accept-changes": "--accept-changes", "--config-dir conf": "--config-dir", "dataset.root=x": "dataset.root",
        "--as theirs": "dataset=mvtec", "--as a/b dataset=mvtec": "--as", "--as theirs dataset=../x": "dataset", "--as theirs dataset=m nix=1": "nix",
        "--as theirs dataset=m seed=x": "seed",
    }.items()),
    _no("submit", "--benchmark"), _no("submit nix --out a.tar.gz --benchmark nix", "mvtec_ad2"), _no("submit --benchmark mvtec_ad2", "RUN"),
    _no("submit nix --benchmark mvtec_ad2", "--out"), _no("submit nix --benchmark mvtec_ad2 --out a.tar.gz", "nix"),
    _no("submit nix --benchmark mvtec_ad2 --out a.zip", "tar.gz"), _no("submit nix --benchmark mvtec_ad2 --out a.tar.gz --threshold best", "best"),
    _no("submit --check nix --benchmark mvtec_ad2", "nix"), _no("submit run --check nix --benchmark mvtec_ad2", "--check"),
    _no("submit --check nix --benchmark mvtec_ad2 dataset.root=nix", "nix"), _no("submit --check . --benchmark mvtec_ad2", "tar.gz"),
    Case("an archive that is none", ["submit", "--check", "f", "--benchmark", "mvtec_ad2"], (refused("f", "tar.gz"),), "empty", h.content("f", "x")),
    _no("reproduce nix"), _no("reproduce preset=nix", "'nix'"), _no("reproduce rd_mtv", "rd_m"), _no("reproduce --nix"), _no("reproduce method.nix=1", "nix"),
    _no("data", "bench data"), _no("data nix"), _no("data prepare", "prepare"), _no("data prepare nix"), _no("data verify", "verify"),
    _no("data verify nix"), _no("data verify mvtec root=nix", "nix"), _no("data verify demo decode=maybe", "maybe"),
    _no("data list nix=1", "nix"), _no("data list root=", "root"), _no("data prepare mtd urls=", "urls"), _no("data prepare mtd urls=nix", "nix"),
    _no("data prepare demo urls=[https://x]", "urls"), _no("data list root=a root=b", "root"), _no("data list a b"),
    _no("data cache nix"), _no("data cache clear nix"), _no("data cache clear older=x", "older"), _no("data cache clear older=-1", "older"),
    _no("data cache clear older=nan", "older"), _no("data cache list older=1", "cache_dir"), _no("data cache list pixels", "cache_dir=DIR"),
    _no("completion nix"), _no("completion bash zsh", "zsh"),
    _no("train --nix"), _no("train --cfg nix", "nix"), _no("train --config-dir", "--config-dir"),
    Case("the root is a file", ["data", "list", "root=f"], (refused("root", "f"),), "empty", h.content("f", "x")),
    Case("cache_dir is a file", ["data", "cache", "cache_dir=f"], (refused("cache_dir", "f"),), "empty", h.content("f", "x")),
    Case("report of an empty folder", ["report", "o"], (refused("o"),), "empty", h.folder("o")),
    Case("report of a file", ["report", "f"], (refused("f"),), "empty", h.content("f", "x")),
    Case("eval of an empty folder", ["eval", "o"], (refused("o"),), "empty", h.folder("o")),
    Case("a byte that is no UTF-8", ["list", "runs", "\udcff"], (refused(),), "empty"),
    Case("an empty word", ["train", ""], (refused("''"),), "empty"),
    Case("a word of 100,000 characters", ["train", "x" * 100_000], (refused(),), "empty"),
]  # fmt: skip
GOOD, HOLE = "maps/good/000.npy", "maps/hole/000.npy"
OTHER_MAPS = [
    _maps("as they should be", None, works()),
    _maps("of float64", h.on("maps/*/*.npy", lambda p: np.save(p, np.load(p).astype(float))), works()),
    _maps("of another size", _array(HOLE, np.zeros((8, 8), np.float32)), refused("000", "8")),
    _maps("of three dimensions", _array(HOLE, np.zeros((1, 16, 16), np.float32)), refused("000")),
    _maps("of no number", _array(HOLE, np.full((16, 16), "x")), refused("000")),
    _maps("of complex numbers", _array(HOLE, np.zeros((16, 16), complex)), refused("000")),
    _maps("with NaN", _array(HOLE, np.full((16, 16), np.nan, np.float32)), refused("000", "finite")),
    _maps("infinite", _array(HOLE, np.full((16, 16), np.inf, np.float32)), refused("000", "finite")),
    _maps("beyond float32", _array(HOLE, np.full((16, 16), 1e300)), works()),
    _maps("of 0 x 0 pixels", _array(HOLE, np.zeros((0, 0), np.float32)), refused("000")),
    _maps("pickle with os.system", lambda work: _array(HOLE, np.array([_shell()], object), allow_pickle=True)(work), refused("000")),
    _maps("text", h.content(HOLE, "hello"), refused("000")),
    _maps("no content", h.content(HOLE, ""), refused("000")),
    _maps("half a map", h.on(HOLE, h.cut), refused("000")),
    _maps("a stem twice", lambda work: save(work / "maps/hole/000.png", np.zeros((16, 16), np.uint8)), refused("000")),
    _maps("a coloured PNG", h.both(h.remove(HOLE), lambda work: save(work / "maps/hole/000.png", np.zeros((16, 16, 3), np.uint8))), refused("000.png")),
    _maps("a TIFF of two pages", h.both(h.remove(HOLE), h.content("maps/hole/000.tiff", "II*")), refused("000.tiff")),
    _maps("no map", h.empty("maps"), refused("maps")),
    _maps("no defective map", h.both(h.remove("maps/hole"), h.remove("maps/line")), refused("000_mask", "has no map")),
    _maps("no map of a normal image", h.remove("maps/good"), said("undefined")),
    _maps("no mask", h.empty("masks"), refused("masks")),
    _maps("a mask is missing", h.remove("masks/hole/000_mask.png"), refused("000")),
    _maps("a mask too many", h.copy("masks/hole/000_mask.png", "masks/hole/009_mask.png"), refused("009"), said("009")),
    _maps("a mask of another size", lambda work: save(work / "masks/hole/000_mask.png", np.full((8, 8), 255, np.uint8)), refused("000_mask")),
    _maps("a mask of a good image", lambda work: save(work / "masks/good/000_mask.png", np.full((16, 16), 255, np.uint8)), refused("good"), said("good")),
    _maps("an empty mask", lambda work: save(work / "masks/hole/000_mask.png", np.zeros((16, 16), np.uint8)), said("empty mask"), refused("000_mask")),
    _maps("half a mask", h.on("masks/hole/000_mask.png", h.cut), refused("000_mask")),
    _maps("maps is a file", h.both(h.remove("maps"), h.content("maps", "x")), refused("maps")),
]  # fmt: skip
FULL, CLOSED = said("standard output", code=1), Outcome(0)
STREAMS = [
    *(_stream("full disk", words, FULL, "/dev/full") for words in ("list methods", "list runs", "show method=rd", "--help", "data list", "completion bash", "report", "train --cfg job method=rd dataset=mtd")),
    *(_stream("closed output", words, CLOSED, "closed") for words in ("list methods", "list runs", "show method=rd", "--help")),
]  # fmt: skip
CASES = [*WORDS, *OTHER_MAPS, *STREAMS]


def _shell() -> object:
    from bad_inputs.cases_datasets import Shell

    return Shell()
