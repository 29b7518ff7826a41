"""Folders of a user's own: layouts, masks, what lies about, names."""

from __future__ import annotations

import os

from bad_inputs import harms as h
from bad_inputs.judge import Case, Outcome, refused, said, works
from bad_inputs.worlds import THINGS, TRAIN, WIDGETS, noise, save

OK = works("widgets")
GOOD, HOLE = "widgets/train/good", "widgets/test/hole"


def _c(name: str, harm: h.Harm | None, *outcomes: Outcome, words: list[str] = WIDGETS, world: str = "widgets") -> Case:
    return Case(name, words, outcomes, world, harm)


def _flat(name: str, harm: h.Harm | None, *outcomes: Outcome, more: tuple[str, ...] = (), world: str = "flat") -> Case:
    return Case(name, [*THINGS, *more], outcomes, world, harm)


def _root(name: str, root: str, *outcomes: Outcome, harm: h.Harm | None = None) -> Case:
    return Case(name, [*TRAIN, f"dataset.root={root}"], outcomes, "widgets", harm)


def _omitted(name: str, harm: h.Harm, *names: str) -> Case:
    """Not an image: said with the clean result, or refused."""
    return _c(name, harm, said(*names, same="widgets"), refused(*names))


def _masks_beside(mark: str) -> Case:
    place = lambda work: [  # noqa: E731
        mask.rename(work / "things/bad" / f"{mask.stem.removesuffix('_mask')}{mark}.png")
        for mask in (work / "things/ground_truth/bad").glob("*")
    ]
    harm = h.both(place, h.remove("things/ground_truth"))
    return _flat(f"masks beside the images, {mark}", harm, said("(6 with masks)", same="masked"), world="masked")


def _named(what: str, name: str, *outcomes: Outcome) -> Case:
    """An image with an odd name in place of one of the same content."""
    move = lambda work: os.rename(work / GOOD / "011.png", os.fsencode(work / GOOD) + b"/" + os.fsencode(name))  # noqa: E731, PTH104
    return _c(f"a training image is called {what}", move, *(outcomes or (OK,)))


def _tested(what: str, name: str, *outcomes: Outcome) -> Case:
    move = lambda work: os.rename(work / HOLE / "002.png", os.fsencode(work / HOLE) + b"/" + os.fsencode(name))  # noqa: E731, PTH104
    mask = h.both(h.remove("widgets/ground_truth"), move)
    return _c(
        f"a test image is called {what}",
        mask,
        *(outcomes or (works(), refused())),
        words=[*WIDGETS, "save_heatmaps=true"],
    )


LYING_ABOUT = [
    _omitted("dangling link among training images", h.link(f"{GOOD}/x.png", "nowhere"), "x.png"),
    _omitted("dangling link among normal test images", h.link("widgets/test/good/x.png", "nowhere"), "x.png"),
    _omitted("dangling link among defective images", h.link(f"{HOLE}/x.png", "nowhere"), "x.png"),
    _omitted("link to itself", h.link(f"{GOOD}/x.png", "x.png"), "x.png"),
    _omitted("link to /dev/zero", h.link(f"{GOOD}/x.png", "/dev/zero"), "x.png"),
    _omitted("fifo among training images", h.fifo(f"{GOOD}/x.png"), "x.png"),
    _omitted("fifo among defective images", h.fifo(f"{HOLE}/x.png"), "x.png"),
    _omitted("socket among training images", h.listening(f"{GOOD}/x.png"), "x.png"),
    _omitted("folder x.png", h.folder(f"{GOOD}/x.png"), "x.png"),
    _omitted("folder x.png with images", h.image("widgets/test/line/x.png/1.png"), "x.png"),
    _omitted("folder of images inside train/good", h.image(f"{GOOD}/more/1.png"), "more"),
    _omitted("GIF among training images", h.image(f"{GOOD}/x.gif"), "x.gif"),
    _omitted("text among normal test images", h.content("widgets/test/good/x.txt", "x"), "x.txt"),
    _omitted("HEIC among defective images", h.content(f"{HOLE}/x.heic", "x"), "x.heic"),
    _omitted("image without a suffix", lambda w: h.copy(f"{GOOD}/000.png", f"{GOOD}/IMG1")(w), "IMG1"),
    _omitted("images in test itself", h.image("widgets/test/x.png"), "x.png"),
    _omitted("images in train itself", h.image("widgets/train/x.png"), "x.png"),
    _omitted("images in the root itself", h.image("widgets/x.png"), "x.png"),
    _omitted("train/bad", h.image("widgets/train/bad/1.png"), "bad"),
    _omitted("another folder of images", h.image("widgets/spare/1.png"), "spare"),
    _omitted("both layouts at once", h.both(h.image("widgets/good/1.png"), h.image("widgets/bad/1.png")), "good"),
    _c("hidden files and system files", h.both(h.image(f"{GOOD}/.x.png"), h.content(f"{GOOD}/.DS_Store", "x")), OK),
    _c("capital suffix", h.move(f"{GOOD}/011.png", f"{GOOD}/011.PNG"), OK),
    _c(
        "image that is a link",
        h.both(h.move(f"{GOOD}/011.png", "a.png"), h.link(f"{GOOD}/011.png", "../../../a.png")),
        OK,
    ),
    _c("train/good is a link", h.both(h.move(GOOD, "elsewhere"), h.link(GOOD, "../../elsewhere")), OK),
]
FLAT = [
    _flat("flat folders", None, works("flat")),
    _flat("good_dir beside the layout train/test", h.image("things/train/good/1.png"), refused("dataset.good_dir"),
          more=("dataset.good_dir=ok",)),
    _flat("bad_dir beside the layout train/test", h.image("things/train/good/1.png"), refused("dataset.bad_dir"),
          more=("dataset.bad_dir=nok",)),
    _flat("good_dir = bad_dir", None, refused("dataset.bad_dir"), more=("dataset.bad_dir=good",)),
    _flat("good_dir = bad_dir by a link", h.link("things/b", "good"), refused("dataset.bad_dir"), more=("dataset.bad_dir=b",)),
    _flat("good_dir=.", None, refused("good_dir"), refused("things"), more=("dataset.good_dir=.",)),
    _flat("good_dir outside", h.image("other/1.png"), refused("dataset.good_dir"), more=("dataset.good_dir=../other",)),
    _flat("good_dir absolute", None, refused("dataset.good_dir"), more=("dataset.good_dir=/",)),
    _flat("good_dir missing", None, refused("nix"), more=("dataset.good_dir=nix",)),
    _flat("bad_dir called Good", h.move("things/bad", "things/Good"), refused("dataset.bad_dir"), more=("dataset.bad_dir=Good",)),
    _flat("no good", h.remove("things/good"), refused("good")),
    _flat("no bad", h.remove("things/bad"), refused("bad")),
    _flat("empty good", h.empty("things/good"), refused("things/good")),
    _flat("empty bad", h.empty("things/bad"), refused("things/bad")),
    _flat("one good image", h.remove("things/good/0[01]*[1-9].png"), refused("share")),
    _flat("test_share=1", None, refused("dataset.test_share"), more=("dataset.test_share=1",)),
    _flat("test_share=0.999", None, refused("test_share"), more=("dataset.test_share=0.999",)),
    _flat("same file in good and bad", h.copy("things/good/001.png", "things/bad/x.png"), refused("x.png")),
    _flat("images beside good and bad", h.image("things/ugly/1.png"), said("ugly", same="flat"), refused("ugly")),
]  # fmt: skip
MASKS = [
    *(_masks_beside(mark) for mark in ("_mask", "_gt", "_label", "_GT", "_MASK")),
    _c("masks beside the images of train/test", lambda w: [
        m.rename(w / "widgets/test" / m.parent.name / m.name) for m in (w / "widgets/ground_truth").glob("*/*")
    ], said("(6 with masks)", same="widgets")),
    _c("folder masks", h.move("widgets/ground_truth", "widgets/masks"), OK),
    _c("masks called as their images", h.on("widgets/ground_truth/*/*.png", lambda p: p.rename(p.with_name(p.name.replace("_mask", "")))), OK),
    *(_c(f"masks as {s}", h.on("widgets/ground_truth/*/*.png", h.again(s)), OK) for s in (".bmp", ".tif", ".gif")),
    *(_c(f"masks as {s}", h.on("widgets/ground_truth/*/*.png", h.again(s)), refused("000")) for s in (".jpg", ".webp")),
    _c("masks of 0 and 1", h.on("widgets/ground_truth/*/*.png", h.pixels(lambda a: a // 255)), OK),
    _c("masks in colour", h.on("widgets/ground_truth/*/*.png", h.again(".png", "RGB")), OK),
    _c("masks of one bit", h.on("widgets/ground_truth/*/*.png", h.again(".png", "1")), OK),
    _c("masks with a palette", h.on("widgets/ground_truth/*/*.png", h.again(".png", "P")), OK),
    _c("two places for masks", h.copy("widgets/ground_truth", "widgets/masks"), refused("mask"), said("masks", same="widgets")),
    _c("one mask is missing", h.remove("widgets/ground_truth/line/002_mask.png"), refused("002.png")),
    _c("all masks of a kind are missing", h.remove("widgets/ground_truth/line"), refused("line")),
    _omitted("mask without an image", h.copy("widgets/ground_truth/line/000_mask.png", "widgets/ground_truth/line/9_mask.png"), "9_mask.png"),
    _omitted("mask of a normal image", h.copy("widgets/ground_truth/line/000_mask.png", "widgets/ground_truth/good/000_mask.png"), "000_mask.png"),
    _omitted("unknown kind among the masks", h.copy("widgets/ground_truth/line", "widgets/ground_truth/dent"), "dent"),
    _c("mask of another size", h.on("widgets/ground_truth/line/002_mask.png", lambda p: save(p, noise(1, 48)[..., 0])),
       refused("002_mask.png", failed=True)),
    _c("empty mask", h.on("widgets/ground_truth/line/002_mask.png", h.pixels(lambda a: a * 0)), said("empty mask")),
    _c("mask file without content", h.content("widgets/ground_truth/line/002_mask.png", ""), refused("002_mask.png", failed=True)),
    _c("mask of text", h.content("widgets/ground_truth/line/002_mask.png", "x"), refused("002_mask.png", failed=True)),
    _c("mask is a dangling link", h.both(h.remove("widgets/ground_truth/line/002_mask.png"), h.link("widgets/ground_truth/line/002_mask.png", "x")), refused("002")),
    _c("two images of one stem", h.on(f"{HOLE}/000.png", lambda p: save(p.with_suffix(".bmp"), noise(5))), refused("000")),
]  # fmt: skip
MISSING = [
    _c("no train/good", h.remove(GOOD), refused("train/good")),
    _c("empty train/good", h.empty(GOOD), refused("train/good")),
    _c("no test", h.remove("widgets/test"), refused("test")),
    _c("empty test", h.empty("widgets/test"), refused("test")),
    _c("no normal test images", h.remove("widgets/test/good"), said("normal"), said("good"), refused("good")),
    _c("no defective test images", h.both(h.remove(HOLE), h.remove("widgets/test/line")), said("undefined"), said("0 defective"), refused("defect")),
    _c("empty kind", h.empty(HOLE), refused("hole")),
    _c("one training image, a quarter to be set aside", h.remove(f"{GOOD}/0[01][1-9].png"), said(), refused("image")),
    _c("Train/Good in capitals", h.move("widgets/train", "widgets/Train"), refused("train")),
    _c("test/Good in capitals", h.move("widgets/test/good", "widgets/test/Good"), refused("Good")),
    _c("same file in train and test", h.copy(f"{GOOD}/001.png", "widgets/test/good/x.png"), said("x.png"), refused("x.png")),
    _c("same file in train and defects", lambda w: (h.copy(f"{GOOD}/001.png", f"{HOLE}/x.png")(w), h.copy("widgets/ground_truth/hole/000_mask.png", "widgets/ground_truth/hole/x_mask.png")(w)), refused("x.png")),
    _c("same file in good and defects", lambda w: (h.copy("widgets/test/good/001.png", f"{HOLE}/x.png")(w), h.copy("widgets/ground_truth/hole/000_mask.png", "widgets/ground_truth/hole/x_mask.png")(w)), refused("x.png")),
]  # fmt: skip
ROOTS = [
    _root("no such root", "wigdets", refused("wigdets")),
    _root("root is a file", "widgets/train/good/000.png", refused("000.png")),
    _root("root is a dangling link", "gone", refused("gone"), harm=h.link("gone", "x")),
    _root("root is a fifo", "pipe", refused("pipe"), harm=h.fifo("pipe")),
    _root("root is empty", "void", refused("void"), harm=h.folder("void")),
    _root("root is not given", "null", refused("dataset.root")),
    _root("root is an empty word", "", refused("dataset.root")),
    _root("root of an unknown user", "~nobody_here/x", refused("nobody_here")),
    _root("root of 5000 characters", "x" * 5000, refused("dataset.root")),
    _root("root with a newline", "'a\nb'", refused("dataset.root"), refused("a")),
    _root("root through .. and a slash at the end", "widgets/../widgets/", OK),
    _root("root with a space", "'my widgets'", OK, harm=h.move("widgets", "my widgets")),
    _root("root with = and a comma, quoted", "'a=1, b'", OK, harm=h.move("widgets", "a=1, b")),
    _root("root with a comma, not quoted", "a,b", refused("a,b"), harm=h.move("widgets", "a,b")),
    _root("root with 200 characters", "w" * 200, OK, refused("www"), harm=h.move("widgets", "w" * 200)),
    _root("root with ${", "'a${b}'", refused("b"), OK, harm=h.move("widgets", "a${b}")),
]
NAMES = [
    _named("by 245 characters", "x" * 241 + ".png"),
    _named("by a newline", "x\ny.png", refused("x")),
    _named("by a tab", "x\ty.png", refused("x"), OK),
    _named("by bytes that are not UTF-8", "x\udcff.png", refused("x")),
    _named("in Greek, with an emoji", "ωx😀.png"),
    _named("with spaces", "x y .png"),
    _named("like an option", "-x.png", works()),
    _named("by = , ' and brackets", "x=1,'[y]{z}$.png"),
    _tested("by 245 characters", "x" * 241 + ".png"),
    _tested("by a newline", "x\ny.png", refused("x")),
    _tested("by bytes that are not UTF-8", "x\udcff.png", refused("x")),
    _tested("by a line separator", "x\u2028y.png"),
    _tested("by < and &", "x<b>&amp;.png", works()),
    _tested("by markup of a console", "[red]x.png", works()),
    _c("kind with two words", lambda w: [(w / "widgets" / p / "hole").rename(w / "widgets" / p / "a hole") for p in ("test", "ground_truth")], OK),
    _c("kind with a newline", lambda w: [(w / "widgets" / p / "hole").rename(w / "widgets" / p / "a\nhole") for p in ("test", "ground_truth")], refused("hole")),
    _c("kind of 200 characters", lambda w: [(w / "widgets" / p / "hole").rename(w / "widgets" / p / ("h" * 200)) for p in ("test", "ground_truth")], OK, refused("hhh")),
]  # fmt: skip
CASES = [*LYING_ABOUT, *FLAT, *MASKS, *MISSING, *ROOTS, *NAMES]
