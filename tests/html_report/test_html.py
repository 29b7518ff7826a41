"""The pages: links lead somewhere, numbers are the tables', text is text, pictures mean what they say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy.stats import binomtest
from small_runs import Train
from synthetic import ROOT, synthetic

from anomaly_bench.commands.report import write_report
from anomaly_bench.html_report import thumbnails as pictures
from anomaly_bench.html_report.charts import Axis, Chart, Line, nth_style, spanning
from anomaly_bench.html_report.run_charts import cost_charts, training_charts
from anomaly_bench.html_report.run_data import file_name, runs_by_category
from anomaly_bench.html_report.tables import best_settings
from anomaly_bench.results.aggregate import Cell, Column, Table, summarise
from anomaly_bench.results.collect import collect
from anomaly_bench.results.comparisons import Comparison
from anomaly_bench.results.text import BASELINES_NOTE
from anomaly_bench.runs.folder import RunFolder, find
from anomaly_bench.runs.promise import LEVELS
from anomaly_bench.runs.stored_run import ScoreRow

Run = Callable[..., RunFolder]
STATIC = ROOT / "anomaly_bench" / "html_report" / "static"


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file, self.open, self.ids, self.ways, self.tags = file, [], set(), [], []
        self.cells: list[list[str]] = []
        self.text = file.read_text(encoding="utf-8")
        self.feed(self.text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        self.ids |= {given["id"]} if given.get("id") else set()
        self.ways += [given[key] for key in ("href", "src") if given.get(key)]
        if tag not in ("meta", "link", "img", "input", "wbr"):
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.file

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.cells[-1][-1] += data


def written(outputs: Path) -> dict[str, Page]:
    """`bench report`, and all its pages by their names."""
    target = write_report(outputs, console=Console(file=StringIO()))
    return {file.relative_to(target).as_posix(): Page(file) for file in target.rglob("*.html")}


def data(outputs: Path, name: str) -> dict[str, Any]:
    text = (outputs / "report" / "data" / f"{name}.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("window.GALLERY = ").rstrip().removesuffix(";"))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories, two methods, two seeds; a run that failed and one without anything but its numbers."""
    outputs = tmp_path_factory.mktemp("outputs")
    synthetic(outputs, categories=2, methods=2, seeds=2)
    failed = next(iter(find(outputs))).path.parent / "s9-00000000"
    RunFolder(failed).start({"method": "rd"}, "", [], afresh=True)
    RunFolder(failed).fail(RuntimeError("out of <memory>"))
    return outputs


@pytest.fixture(scope="module")
def pages(outputs: Path) -> dict[str, Page]:
    return written(outputs)


def test_there_is_a_page_for_each_data_set_and_category(pages: dict[str, Page]) -> None:
    names = {f"pages/synthetic{end}.html" for end in ("", ".category00", ".category01")}
    assert set(pages) == {"index.html", *names}


def test_every_link_leads_somewhere_on_this_disk(pages: dict[str, Page]) -> None:
    seen = 0
    for page in pages.values():
        for way in page.ways:
            if way == "data:,":  # so that no browser asks for an icon
                continue
            path, _, anchor = way.partition("#")
            target = (page.file.parent / path).resolve() if path else page.file.resolve()
            assert target.is_file(), (page.file, way)
            assert not anchor or anchor in Page(target).ids, (page.file, way)
            seen += 1
    assert seen > 40


def test_nothing_is_asked_of_a_network(outputs: Path, pages: dict[str, Page]) -> None:
    texts = [page.text for page in pages.values()] + [file.read_text() for file in outputs.rglob("report/*/*.[jc]s*")]
    assert len(texts) == len(pages) + 2 + 3  # two categories' data, a style sheet, two scripts
    for text in texts:
        assert not re.search(r"https?://|//[a-z]+\.|@import|fetch\(|XMLHttp|WebSocket|url\(", text)


def test_ids_are_unique(pages: dict[str, Page]) -> None:
    for page in pages.values():
        found = [given["id"] for _, given in page.tags if given.get("id")]
        assert len(found) == len(set(found))


def test_the_overview_has_the_means_over_seeds(outputs: Path, pages: dict[str, Page]) -> None:
    aurocs = {(m, c): [] for m in ("rd", "csflow") for c in ("category00", "category01")}
    for folder in find(outputs):
        if folder.status == "done":
            aurocs[folder.manifest["method"], folder.manifest["category"]].append(folder.metrics["image_auroc"])
    line = next(cells for cells in pages["index.html"].cells if cells[0] == "category00")
    expected = [(np.mean(aurocs[m, "category00"]), np.std(aurocs[m, "category00"], ddof=1)) for m in ("csflow", "rd")]
    assert line[1:] == [f"{mean:.4f}±{std:.4f}" for mean, std in expected]
    rd = next(cells for cells in pages["index.html"].cells if cells[0] == "rd" and "±" in cells[1])
    means = np.mean([aurocs["rd", c] for c in ("category00", "category01")], 0)
    assert rd[1] == f"{means.mean():.4f}±{means.std(ddof=1):.4f}"
    assert rd[-4:] == ["100", "11.1", "100", "10.00 M"]


def test_the_best_figure_of_each_column_is_bold(outputs: Path, pages: dict[str, Page]) -> None:
    bold = re.findall(r"<b title=[^>]*>([^<]+)</b>", pages["pages/synthetic.html"].text)
    means: dict[str, list[float]] = {}
    done = [folder for folder in find(outputs) if folder.status == "done"]
    for metric in done[0].metrics:
        for method in ("rd", "csflow"):
            values = [folder.metrics[metric] for folder in done if folder.manifest["method"] == method]
            means.setdefault(metric, []).append(np.mean(values))
    assert len(means) == 10
    for values in means.values():
        assert f"{max(values):.4f}" in bold
        assert f"{min(values):.4f}" not in bold
    assert {"100", "11.1"} <= {*bold}  # the cheaper one
    assert "10.00 M" not in bold  # both


def test_settings_differ_in_what_stands_side_by_side(pages: dict[str, Page]) -> None:
    lines = [cells for cells in pages["pages/synthetic.html"].cells if cells[0].startswith("method.")]
    assert lines == [["method.name", "csflow", "rd"]]


def test_a_single_run_has_its_interval_as_a_bar(tmp_path: Path) -> None:
    synthetic(tmp_path, categories=1, methods=2, seeds=1)
    rows = collect(tmp_path).rows
    (runs,) = runs_by_category(rows)["synthetic"].values()
    chart = cost_charts(summarise(rows), runs).charts[0]
    assert chart.title == "image AUROC over training time"
    assert [(dot.low, dot.high) for dot in chart.dots] == [run.row.measured.intervals["image_auroc"] for run in runs]
    assert all(dot.low < dot.y < dot.high for dot in chart.dots)


def test_every_logged_value_has_a_curve(tmp_path: Path) -> None:
    synthetic(tmp_path, categories=1, methods=1, seeds=1)
    (folder,) = find(tmp_path)
    lines = "".join(f"{stage},{e},1,1,{e + 1},0.1,{e / 7}\n" for stage in ("teacher", "students") for e in range(3))
    folder.write_text("training.csv", f"stage,epoch,steps,seconds,loss,first_loss,mean_distance\n{lines}")
    (runs,) = runs_by_category(collect(tmp_path).rows)["synthetic"].values()
    charts = training_charts(runs).charts
    titles = [f"{stage} · rd: {name}" for name in ("loss", "mean distance") for stage in ("teacher", "students")]
    assert [chart.title for chart in charts] == titles
    assert [*charts[3].lines[0].x] == [1, 2, 3]
    assert [*charts[3].lines[0].y] == pytest.approx([0, 1 / 7, 2 / 7])


def test_published_figures_stand_beside_their_setting(run: Run, tmp_path: Path) -> None:
    run("screw", 0, image_auroc=0.95, pixel_auroc=0.9)
    run("screw", 0, label="rd method.epochs=3", method={"epochs": 3}, image_auroc=0.7)
    page = written(tmp_path)["index.html"]
    first_cells = [cells[0] for cells in page.cells]
    quoted = [given for tag, given in page.tags if tag == "td" and given.get("class") == "quoted"]
    assert len(quoted) >= 1
    assert first_cells.index("rd") < first_cells.index("paper WRN50-2 256px") < first_cells.index("rdepochs=3")
    assert "unverified" in next(cells for cells in page.cells if cells[0] == "paper WRN50-2 256px")[1]


def test_published_baselines_have_a_table_of_their_own(run: Run, tmp_path: Path) -> None:
    run("screw", 0, **{"image_auroc": 0.95, "aupro_0.3": 0.9})
    page = written(tmp_path)["pages/mvtec.html"]
    assert "published-baselines" in page.ids
    assert BASELINES_NOTE in page.text
    assert next(cells for cells in page.cells if cells[:1] == ["screw"] and "0.604seen" in cells)[1:4] == [
        "0.604seen",
        "0.644seen",
        "0.550seen",
    ]


def test_a_failed_run_is_listed_with_its_error(pages: dict[str, Page]) -> None:
    line = next(cells for cells in pages["index.html"].cells if cells[0] == "failed")
    assert line == ["failed", "csflow/synthetic/category00/s9-00000000", "RuntimeError: out of <memory>"]


def test_every_page_has_provenance_and_protocol(pages: dict[str, Page]) -> None:
    for page in pages.values():
        assert "invented: nothing was trained or measured" in page.text
        assert {"protocol"} <= page.ids
    page = pages["pages/synthetic.category00.html"]
    for word in ("bench train method=rd seed=1", "synthetic", "these numbers are invented", "data checksum"):
        assert word in page.text


def test_charts_have_all_their_lines(pages: dict[str, Page]) -> None:
    page = pages["pages/synthetic.category00.html"]
    lines = [given for tag, given in page.tags if tag == "polyline"]
    assert len(lines) == 3 * 4 + 4  # three curves and a loss of four runs
    assert len({(g["class"], g.get("stroke-dasharray")) for g in lines}) == 2  # of two settings
    x = [float(pair.split(",")[0]) for pair in lines[0]["points"].split()]
    assert x == sorted(x)


def test_text_is_text(run: Run, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>&\"'"
    folder = run("screw", label=f"rd {evil}", image_auroc=0.5)
    folder.write_scores([ScoreRow(f"{evil}/a.png", evil, 1, 1.0), ScoreRow("b.png", "good", 0, 0.0)])
    test = {"false_alarms": 1, "normal": 1, "interval": [0.6, 1], "found": {evil: [1, 1]}}
    entry = {"threshold": -1.0, "n": 60, "rate": 0.05, "confidence": 0.95, "promised": 0.05}
    entry |= {"file": "folds.csv", "source": evil}
    folder.update(thresholds={"image": {**entry, "test": test, "approximate": True}})
    folder.update(command=evil, device=evil, protocol=[evil], provenance={evil: evil})
    folder.finish()
    for page in written(tmp_path).values():
        assert "b" not in {tag for tag, _ in page.tags}
        scripts = [given for tag, given in page.tags if tag == "script"]
        assert all(given.get("src") for given in scripts)
        assert len(scripts) <= 3
        assert "&lt;script&gt;" in page.text


@pytest.mark.parametrize("names", [("a_b", "c"), ("a", "b_c"), ("A", "b_c"), ("a.b", "c"), ("a", "b", "c"), ("ä", "/")])
def test_file_names_differ_where_names_do(names: tuple[str, ...]) -> None:
    others = [("a_b", "c"), ("a", "b_c"), ("A", "b_c"), ("a.b", "c"), ("a", "b", "c"), ("a", "b.c"), ("ö", "/"), ("a",)]
    assert file_name(*names).lower() not in {file_name(*other).lower() for other in others if other != names}
    assert re.fullmatch(r"[a-z0-9_.-]+", file_name(*names))


def comparison(first: str, second: str, difference: float, distinguishable: bool, check: bool = False) -> Comparison:
    figures = (6, 3, difference, difference - 0.1, difference + 0.1, 1.0, 0.01)
    return Comparison("d", "m", first, second, *figures, distinguishable, "", check=check)


@pytest.mark.parametrize(
    ("compared", "best"),
    [
        ([comparison("a", "b", 0.2, True), comparison("c", "a", -0.2, True)], {"a"}),
        ([comparison("a", "b", 0.2, True), comparison("c", "a", -0.2, False)], set()),
        ([comparison("a", "b", 0.2, True)], set()),
        ([comparison("a", "b", 0.2, True, check=True), comparison("a", "c", 0.2, True)], set()),
        ([comparison("a", "b", -0.2, True), comparison("b", "c", 0.1, True)], {"b"}),
        ([], set()),
    ],
)
def test_best_is_marked_where_it_is_distinguishable_from_all(compared: list[Comparison], best: set[str]) -> None:
    columns = [Column(head, [Cell(value)]) for head, value in (("a", 0.9), ("b", 0.7), ("c", 0.6))]
    assert best_settings([Table("d", "m", ["x"], columns)], compared) == {"m": best}


def test_a_baseline_is_never_the_best() -> None:
    columns = [Column(head, [Cell(value)]) for head, value in (("a", 0.9), ("floor (baseline)", 0.95))]
    won = Comparison("d", "m", "floor (baseline)", "a", 9, 9, 0.05, 0.04, 0.06, 1.0, 0.001, True, "p < 0.001")
    tables = [Table("d", "m", ["x"], columns)]
    assert best_settings(tables, [won]) == {"m": {"floor (baseline)"}}
    assert best_settings(tables, [won], {"floor (baseline)"}) == {"m": set()}
    lost = Comparison("d", "m", "floor (baseline)", "a", 9, 9, -0.05, -0.06, -0.04, 0.0, 0.001, True, "p < 0.001")
    assert best_settings(tables, [lost], {"floor (baseline)"}) == {"m": {"a"}}


def test_a_colour_is_a_false_positive_rate() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=40_000).round(2)
    limits = pictures.thresholds(normal)
    values = np.concatenate([limits, np.nextafter(limits, 9), rng.normal(1, 2, 500), [-9, 9]])
    shares = np.array([np.mean(normal >= v) for v in values])  # the rate of a threshold at this very value
    expected = (shares[:, None] <= pictures.rates()).sum(1)
    np.testing.assert_array_equal(pictures.levels(values, limits), expected)
    assert set(expected) == set(range(pictures.STEPS + 1))


def test_what_cannot_be_drawn_is_no_point() -> None:
    line = Line(nth_style(0), "loss", [1, 2, 3, 4], [0.5, float("nan"), 0.0, 2.0])
    chart = Chart("loss", Axis("epoch", 1, 4), spanning("loss", line.y, log=True), [line])
    pairs = chart.path(chart.points(line)).split()
    assert [float(pair.split(",")[0]) for pair in pairs] == [chart.left, chart.right]


@pytest.mark.parametrize(
    ("low", "high", "log"), [(0, 1, False), (0.6931, 0.6942, False), (3, 12000, True), (50, 90, True)]
)
def test_axes_have_a_few_round_ticks_inside(low: float, high: float, log: bool) -> None:
    axis = spanning("", [low, high, float("nan")], log)
    assert 3 <= len(axis.ticks()) <= 9
    assert all(0 <= axis.share(tick) <= 1 and float(f"{tick:.5g}") == pytest.approx(tick) for tick in axis.ticks())
    assert 0 < axis.share(low) < axis.share(high) < 1


def test_pictures_do_not_depend_on_a_methods_scale(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(5, 300, 200)).astype(np.float32)
    files = []
    for name, values in (("a", maps), ("b", np.exp(3 * maps) - 5)):
        folder = RunFolder(tmp_path / name)
        folder.write_maps(values)
        key = pictures.draw_maps(folder, [0, 0, 0, 1, 1], [1, 4], tmp_path / "out")
        files.append([tmp_path / "out" / key / f"{i}.png" for i in (1, 4)])
        assert len(list((tmp_path / "out" / key).iterdir())) == 4  # each on its own scale, too
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()
    with Image.open(files[0][1]) as picture:
        assert picture.size == (100, 150)  # two pixels become one
        blocks = np.maximum.reduceat(np.maximum.reduceat(maps[4], range(0, 300, 2), 0), range(0, 200, 2), 1)
        expected = pictures.levels(blocks, pictures.thresholds(maps[:3].ravel()))
        np.testing.assert_array_equal(np.asarray(picture), expected)
        assert len(np.unique(expected)) > 10


def test_ignored_pixels_have_no_rate(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).normal(size=(5, 64, 64)).astype(np.float32)
    ignored = np.zeros((64, 64), bool)
    ignored[:20] = True
    maps[:, ignored] += 100
    folder = RunFolder(tmp_path / "a")
    folder.start({"ignored": {"value": None, "region": True}}, "", [], afresh=True)
    folder.write_maps(maps)
    Image.fromarray(ignored).convert("L").save(tmp_path / "a" / "ignore.png")
    key = pictures.draw_maps(folder, [0, 0, 0, 1, 1], [4], tmp_path / "out")
    shown = np.asarray(Image.open(tmp_path / "out" / key / "4.png"))
    expected = pictures.levels(maps[4], pictures.thresholds(maps[:3, ~ignored].ravel()))
    np.testing.assert_array_equal(shown[~ignored], expected[~ignored])
    assert not shown[ignored].any()
    own = np.asarray(Image.open(tmp_path / "out" / key / "4_own.png"))
    low, high = maps[4][~ignored].min(), maps[4][~ignored].max()
    np.testing.assert_allclose(own[~ignored] / 255, (maps[4][~ignored] - low) / (high - low), atol=0.51 / 255)
    assert (own[~ignored].min(), own[~ignored].max(), own[ignored].max()) == (0, 255, 0)


def test_a_flat_map_has_one_colour() -> None:
    assert not pictures.on_own_scale(np.full((4, 4), 3e38, np.float32)).any()
    assert not pictures.on_own_scale(np.full((4, 4), -np.inf, np.float32)).any()


def test_the_outline_alone_is_kept(tmp_path: Path) -> None:
    synthetic(tmp_path, categories=1, methods=1, seeds=1, side=64)
    (folder,) = find(tmp_path)
    pictures.crop_images(folder, {11: "x", 0: "y"}, tmp_path / "out")
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["x.jpg", "x_o.png", "y.jpg"]  # 0 is normal
    with Image.open(tmp_path / "out" / "x_o.png") as picture:
        line = np.asarray(picture.convert("RGBA"))
    seen = line[..., 3] > 0
    assert (line[seen] == [0, 255, 255, 255]).all()
    assert 0 < seen.mean() < 0.3
    inside = np.asarray(Image.open(tmp_path / "out" / "x.jpg")).shape[:2]
    assert line.shape[:2] == inside


def test_the_gallery_counts_mistakes_as_they_are(outputs: Path, pages: dict[str, Page]) -> None:
    found = data(outputs, "synthetic.category00")
    assert [image["path"] for image in found["images"]] == sorted(image["path"] for image in found["images"])
    assert all(image["drawn"] for image in found["images"])
    assert len(found["runs"]) == 4
    runs = {(f.manifest["method"], f.manifest["seed"]): f for f in find(outputs) if f.status == "done"}
    run = next(r for r in found["runs"] if (r["name"], r["seed"]) == ("rd", 1))
    folder = next(f for f in find(outputs) if "rd/synthetic/category00/s1" in f.path.as_posix())
    assert runs
    scores = {row.path: row for row in folder.scores}
    for k, image in enumerate(found["images"]):
        row = scores[image["path"]]
        others = [r.score for r in folder.scores if r.label != row.label]
        wrong = sum(other >= row.score for other in others) if row.label else sum(o <= row.score for o in others)
        assert run["wrong"][k] == wrong
        assert run["rank"][k] == 1 + sum(r.score > row.score for r in folder.scores)
        assert run["scores"][1 - row.label] == sorted(others)
        assert folder.scores[run["at"][k]].path == image["path"]
        assert (outputs / "report" / "pictures" / run["maps"] / f"{run['at'][k]}.png").is_file()
        assert run["score"][k] == row.score


def test_a_second_report_draws_only_what_changed(tmp_path: Path) -> None:
    synthetic(tmp_path, categories=1, methods=1, seeds=2)
    written(tmp_path)
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "report" / "pictures").rglob("*.*")}
    assert len(before) > 2 * 10
    written(tmp_path)
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "report" / "pictures").rglob("*.*")} == before
    folder = next(iter(find(tmp_path)))
    folder.write_maps(np.asarray(folder.maps) * 2 + 1)
    written(tmp_path)
    after = {f: f.stat().st_mtime_ns for f in (tmp_path / "report" / "pictures").rglob("*.*")}
    gone, new = before.keys() - after.keys(), after.keys() - before.keys()
    assert len({f.parent for f in gone}) == len({f.parent for f in new}) == 1
    assert all(after[f] == before[f] for f in before.keys() & after.keys())


def test_a_page_of_a_run_that_is_gone_goes(tmp_path: Path) -> None:
    synthetic(tmp_path, categories=2, methods=1, seeds=1)
    assert "pages/synthetic.category01.html" in written(tmp_path)
    for folder in [f for f in find(tmp_path) if "category01" in f.path.as_posix()]:
        folder.path.rename(tmp_path / "elsewhere")
    assert "pages/synthetic.category01.html" not in written(tmp_path)
    assert not (tmp_path / "report" / "data" / "synthetic.category01.js").exists()


@pytest.mark.parametrize("name", ["curves.json", "maps.npy", "scores.csv", "training.csv", "heatmaps"])
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_what_a_run_lacks_is_left_out(tmp_path: Path, name: str, damage: str) -> None:
    synthetic(tmp_path, categories=1, methods=1, seeds=1)
    (folder,) = find(tmp_path)
    files = [*(folder.path / name).iterdir()] if name == "heatmaps" else [folder.path / name]
    for file in files:
        file.unlink() if damage == "missing" else file.write_bytes(b"\x93NUMPY,{")
    folder.finish()  # with the checksums of what is there
    page = written(tmp_path)["pages/synthetic.category00.html"]
    found = data(tmp_path, "synthetic.category00")
    assert ("bench eval RUN" in page.text) == (name == "curves.json")
    assert bool(found["images"]) == (name != "scores.csv")
    assert bool(found["runs"][0]["maps"]) == (name not in ("maps.npy", "scores.csv"))
    assert any(image["drawn"] for image in found["images"]) == (name not in ("heatmaps", "scores.csv"))
    assert ("training" in page.ids) == (name != "training.csv")


def test_a_setting_looks_the_same_in_all_data_sets(run: Run, tmp_path: Path) -> None:
    for dataset, label, setting in [("a", "rd", "1"), ("a", "rd method.lr=0.1", "2"), ("b", "rd method.lr=0.1", "0")]:
        folder = run("x", dataset=dataset, label=label, finish=False, image_auroc=0.9)
        folder.update(setting=setting)  # keys of the data set are part of it
        folder.finish()
    found = runs_by_category(collect(tmp_path).rows)
    (one, two), (other,) = found["a"]["x"], found["b"]["x"]
    assert one.heading != two.heading == other.heading
    assert one.style != two.style == other.style


def test_the_style_sheet_knows_all_colours_in_both_themes() -> None:
    css = (STATIC / "report.css").read_text()
    for name in [f"c{i}" for i in range(8)] + ["ground", "ink", "good", "bad"]:
        assert len(re.findall(rf"--{name}:", css)) >= 3  # light, dark by the system, dark by the switch


KINDS = ("hole", "line")


def above(folder: RunFolder, entry: dict[str, Any], kind: str) -> tuple[int, int]:
    """How many test images of a kind have a score above the threshold, and how many there are."""
    flags = [row.score > entry["threshold"] for row in folder.scores if row.kind == kind]
    return sum(flags), len(flags)


def test_a_threshold_stands_with_its_promise_and_apart_from_it_the_test_figures(trained: Train) -> None:
    folder, _ = trained("calibration_share=0.25"), trained()
    pages = written(Path("outputs"))
    name = f"{folder.manifest['dataset']}.{folder.manifest['category']}"
    page, entry = pages[f"pages/{name}.html"], folder.manifest["thresholds"]["image"]
    alarms = above(folder, entry, "good")[0]
    low, high = binomtest(alarms, 4).proportion_ci(0.95, "exact")
    promise = "5 % at 95 % needs 59 normal images, you have 3: what 3 can promise is 63 %"
    assert f"above {entry['threshold']:.6g} is anomalous: {promise}; calibrated on normal images: held out" in page.text
    by_kind = [above(folder, entry, kind) for kind in KINDS]
    figures = [f"{found} of {n}" for found, n in (np.sum(by_kind, 0), *by_kind)]
    head, *lines = [cells for cells in page.cells if "false alarms (95 % interval)" in cells or cells[0] in LEVELS]
    assert head[-3:] == ["SegF1", *KINDS]
    assert [line[0] for line in lines] == list(LEVELS)
    alarms_text = f"{alarms} of 4 normals ({100 * low:.1f}-{100 * high:.1f} %)"
    assert lines[0][1:] == ["0", alarms_text, figures[0], "–", *figures[1:]]
    assert lines[1][4] == f"{folder.manifest['thresholds']['pixel']['test']['seg_f1']:.4f}"
    assert "Without a threshold: toy notes=notes, seed 0. To get one, train with calibration_share=0.1" in page.text
    (line,) = [
        cells for cells in pages[f"pages/{folder.manifest['dataset']}.html"].cells if cells[2:4] == ["image", "1"]
    ]
    shares = alarms / 4, np.sum(by_kind, 0)[0] / 6
    texts = [f"{100 * share:.{4 if share > 0.9 else 2}g} %" for share in shares]
    assert line[4:] == ["63 %", "95 %", f"{alarms} of 4 ({texts[0]})", f"{figures[0]} ({texts[1]})", "–"]


def test_the_threshold_is_drawn_at_its_place_among_the_scores(trained: Train) -> None:
    folder = trained("calibration_share=0.25")
    (page,) = [page for name, page in written(Path("outputs")).items() if name.count(".") == 2]
    (drawn,) = [given["d"] for tag, given in page.tags if tag == "path" and given.get("class") == "threshold"]
    chart = page.text[: page.text.index('class="threshold"')].rpartition("<svg")[2]
    ticks = [
        (float(x), float(text)) for x, text in re.findall(r'<text x="([\d.]+)" y="\d+" class="mid">([^<]+)', chart)
    ]
    (x0, v0), (x1, v1) = ticks[0], ticks[-1]
    threshold = folder.manifest["thresholds"]["image"]["threshold"]
    assert float(drawn[1:].split(" ")[0]) == pytest.approx(x0 + (threshold - v0) / (v1 - v0) * (x1 - x0), abs=0.2)
    assert f"dashed: threshold {threshold:.4g}" in page.text


def test_without_thresholds_the_three_ways_are_named(pages: dict[str, Page]) -> None:
    page = pages["pages/synthetic.category00.html"]
    assert "Without a threshold: all runs." in page.text
    assert all(way in page.text for way in ("calibration_share=0.1", "validation/good", "--normals DIR"))
    assert "decisions" not in pages["pages/synthetic.html"].ids
    assert not any(given.get("class") == "threshold" for page in pages.values() for _, given in page.tags)


def test_test_images_that_contradict_the_promise_are_named(run: Run, tmp_path: Path) -> None:
    for seed, low in ((0, 0.05), (1, 0.12)):
        test = {"false_alarms": 9, "normal": 40, "interval": [low, 0.3], "found": {f"kind{seed}": [1, 2]}}
        entry = {"threshold": 2.0, "n": 60, "rate": 0.05, "confidence": 0.95, "promised": 0.0489}
        entry |= {"file": "normals.csv", "source": "normals"}
        run("screw", seed, image_auroc=0.9).update(thresholds={"pixel": {**entry, "test": test}})
    page = written(tmp_path)["pages/mvtec.screw.html"]
    sentence = "the normal test images score higher than the calibration images promise: at least 12 % of such images"
    assert page.text.count(sentence) == page.text.count("score higher than") == 1
    assert f'<span class="status">pixel, seed 1:</span> {sentence}' in page.text
    first, second = [cells for cells in page.cells if cells[0] == "pixel"]
    assert first[3:] == ["1 of 2", "1 of 2", "–"]
    assert second[3:] == ["1 of 2", "–", "1 of 2"]
