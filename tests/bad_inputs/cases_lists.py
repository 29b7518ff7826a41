"""Categories below a user's own folder, and lists of images in CSV files."""

from __future__ import annotations

from bad_inputs import harms as h
from bad_inputs.judge import Case, Outcome, refused, said, works
from bad_inputs.worlds import TRAIN

OK = works("widgets")
LISTED = [*("dataset=csv" if word == "dataset=folder" else word for word in TRAIN), "dataset.file=list.csv"]
HEADER = "path,split,kind,mask"
IMAGES = {
    **{f"train/good/{i:03}": "train,good," for i in range(12)},
    **{f"test/good/{i:03}": "test,good," for i in range(4)},
    **{
        f"test/{kind}/{i:03}": f"test,{kind},widgets/ground_truth/{kind}/{i:03}_mask.png"
        for kind in ("hole", "line")
        for i in range(3)
    },
}
LINES = [f"widgets/{name}.png,{rest}" for name, rest in IMAGES.items()]
TEXT = "\n".join([HEADER, *LINES])


def _of(
    name: str, root: str, category: str, *outcomes: Outcome, sweep: bool = False, harm: h.Harm | None = None
) -> Case:
    first, *words = [*TRAIN, f"dataset.root={root}", f"dataset.category={category}"]
    return Case(f"category: {name}", [first, *(["-m"] if sweep else []), *words], outcomes, "widgets", harm)


def _list(name: str, text: str | bytes, *outcomes: Outcome, more: tuple[str, ...] = ()) -> Case:
    return Case(f"list: {name}", [*LISTED, *more], outcomes, "widgets", h.content("list.csv", text))


def _line(name: str, old: str, new: str, *outcomes: Outcome) -> Case:
    """The list with one of its lines changed."""
    assert TEXT.count(old) == 1, old
    return _list(name, TEXT.replace(old, new), *outcomes)


HOLE, BEFORE = "widgets/test/hole/001.png,test,hole,widgets/ground_truth/hole/001_mask.png", "list.csv:19"
FIRST = "widgets/train/good/000.png,train,good,"
CASES = [
    _of("one that is there", ".", "widgets", OK),
    _of("one that is not there", ".", "wigdets", refused("dataset.category", "did you mean 'widgets'?")),
    _of("through ..", "widgets", "../widgets", refused("dataset.category")),
    _of("with a space", ".", "'my widgets'", refused("my widgets"), harm=h.move("widgets", "my widgets")),
    _of("all of them in one run", ".", "all", refused("--multirun")),
    _of("two in one run", ".", "widgets,other", refused("--multirun")),
    _of("all of a folder that is one itself", "widgets", "all", refused("leave out dataset.category"), sweep=True),
    _of("all of a folder without any", "void", "all", refused("void", "category"), sweep=True, harm=h.folder("void/x")),
    _of("all of no folder", "null", "all", refused("dataset.root"), sweep=True),
    _of("all, one of them called all", ".", "all", refused("all", "rename"), harm=h.move("widgets", "all"), sweep=True),
    _of("a folder without a layout", ".", "spare", refused("spare"), harm=h.image("spare/1.png")),
    _list("as it should be", TEXT, OK),
    _list("with a byte order mark and Windows' line ends", "\ufeff" + TEXT.replace("\n", "\r\n"), OK),
    _list("in any order", "\n".join([HEADER, *LINES[::-1]]), OK),
    _list("separated by semicolons", TEXT.replace(",", ";"), refused("list.csv:1", "';'")),
    _list("empty", "", refused("list.csv")),
    _list("only its first line", HEADER, refused("list.csv")),
    _list("without a first line", "\n".join(LINES), refused("list.csv:1", "path")),
    _list("column missing", TEXT.replace("kind", "kinds", 1), refused("list.csv:1", "kind")),
    _list("unknown column", TEXT.replace("mask", "masks", 1), said("masks", "'mask'")),
    _list("bytes", b"\x00\xff\xfe,\n", refused("list.csv")),
    _list("in Latin-1", TEXT.replace("hole", "h\u00f6le").encode("latin-1"), refused("list.csv")),
    _list("unknown category", TEXT, refused("list.csv", "category"), more=("dataset.category=bolt",)),
    _list("another root", TEXT, refused("list.csv:", "is not there"), more=("dataset.root=widgets",)),
    _list("no such root", TEXT, refused("dataset.root", "nix"), more=("dataset.root=nix",)),
    _list("no such list", TEXT, refused("dataset.file", "nix.csv"), more=("dataset.file=nix.csv",)),
    _list("list not given", TEXT, refused("dataset.file"), more=("dataset.file=null",)),
    _list("list is a folder", TEXT, refused("dataset.file", "widgets"), more=("dataset.file=widgets",)),
    _list("no training images", "\n".join([HEADER, *LINES[12:]]), refused("list.csv", "'train'")),
    _list("no test images", "\n".join([HEADER, *LINES[:12]]), refused("list.csv", "'test'")),
    _line("unknown split", FIRST, FIRST.replace(",train,", ",trian,"), refused("list.csv:2", "'train'")),
    _line("image that is not there", FIRST, FIRST.replace("000", "999"), refused("list.csv:2", "999.png")),
    _line("backslashes", FIRST, FIRST.replace("/", "\\"), refused("list.csv:2", "forward slashes")),
    _line("path through ..", FIRST, f"../{FIRST}", refused("list.csv:2", "..")),
    _line("absolute path", FIRST, f"/{FIRST}", refused("list.csv:2")),
    _line("same path twice", FIRST, f"{FIRST}\n./{FIRST}", refused("list.csv:3", "list.csv:2")),
    _line("anomalous training image", FIRST, FIRST.replace("good,", "hole,"), refused("list.csv:2", "hole")),
    _line("kind Good", FIRST, FIRST.replace("good,", "Good,"), refused("list.csv:2", "Good")),
    _line("mask of a normal image", FIRST, f"{FIRST}widgets/ground_truth/hole/000_mask.png", refused("list.csv:2", "mask")),
    _line("one mask missing", HOLE, HOLE.rpartition(",")[0] + ",", refused(BEFORE, "has no mask")),
    _line("mask that is not there", HOLE, HOLE.replace("001_mask", "9_mask"), refused(BEFORE, "9_mask.png")),
    _line("mask as JPEG", HOLE, HOLE.replace("mask.png", "mask.jpg"), refused(BEFORE, "mask.jpg")),
    _line("mask twice", HOLE, f"{HOLE};{HOLE.rpartition(',')[2]}", OK),
    _line("too few values", HOLE, HOLE.rpartition(",")[0], refused(BEFORE)),
    _line("open quote", HOLE, f'"{HOLE}', refused("list.csv:", "CSV")),
]  # fmt: skip
