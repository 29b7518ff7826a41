// Sorting of tables, light and dark, metric switches, the gallery.  No network, no library.
"use strict";
const root = document.documentElement;
const $ = (query, from = document) => from.querySelector(query);
const $$ = (query, from = document) => [...from.querySelectorAll(query)];
const make = (name, className = "", ...children) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
};
root.classList.add("js");

// --- light, dark, or as the system; kept where the browser lets a file keep anything
const store = { get() { try { return localStorage.getItem("theme"); } catch { return null; } },
                set(v) { try { localStorage.setItem("theme", v); } catch { /* not kept */ } } };
const setTheme = (theme) => { if (theme) root.dataset.theme = theme; else delete root.dataset.theme; };
setTheme(store.get());
$("#theme").addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = root.dataset.theme || (dark ? "dark" : "light");
  setTheme(now === "dark" ? "light" : "dark");
  store.set(root.dataset.theme);
});

// --- tables: a click sorts, figures the highest first; another one turns round; cells without a figure stay last
const value = (row, column) => {
  const cell = row.cells[column];
  if (cell.dataset.v === undefined) return cell.textContent.trim();
  return cell.dataset.v === "" ? null : Number(cell.dataset.v);
};
const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b
  : String(a).localeCompare(String(b), "en", { numeric: true }));
for (const button of $$("table.sortable thead button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = head.closest("table"), column = head.cellIndex;
    const rows = [...table.tBodies[0].rows];
    const figures = rows.some((row) => typeof value(row, column) === "number");
    const was = head.getAttribute("aria-sort");
    const order = was ? (was === "ascending" ? "descending" : "ascending") : (figures ? "descending" : "ascending");
    for (const other of $$("[aria-sort]", table)) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    rows.sort((r, s) => {
      const a = value(r, column), b = value(s, column);
      return a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b);
    });
    table.tBodies[0].append(...rows);
  });
}

// --- one of several matrices at a time
for (const group of $$(".switched")) {
  const show = () => {
    const chosen = $("input:checked", group).value;
    for (const part of $$("[data-metric]", group)) part.hidden = part.dataset.metric !== chosen;
  };
  group.addEventListener("change", show);
  show();
}

// --- runs: a link to one opens it; paper shows all
const openTarget = () => {
  const aim = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (aim && aim.tagName === "DETAILS") aim.open = true;
};
addEventListener("hashchange", openTarget);
addEventListener("beforeprint", () => { for (const part of $$("details")) part.open = true; });
openTarget();

// --- the gallery
const startGallery = ({ images, runs, total, verdicts }) => {
  const BATCH = 24, cards = $("#cards"), dialog = $("#large"), more = $("#more");
  const field = (name) => $(`#${name}`)?.value ?? "";
  let shown = [], drawn = 0, at = 0;
  const share = (run, i) => (run.wrong[i] === null ? null : run.wrong[i] / Math.max(run.others[images[i].label], 1));

  const methods = new Map();  // name -> its settings: a name alone says it where there is one
  for (const run of runs) methods.set(run.name, (methods.get(run.name) ?? new Set()).add(run.head));
  const called = (run) => (methods.get(run.name).size === 1 ? run.name : run.head);
  const chosenRuns = () => {  // one of each setting: of the chosen seed, or the lowest
    const seed = field("seed"), found = new Map();
    for (const run of runs) {
      if (seed !== "" && String(run.seed) !== seed) continue;
      const other = found.get(run.head);
      if (!other || run.seed < other.seed) found.set(run.head, run);
    }
    return [...found.values()];
  };
  const keyOf = (i, of) => {  // larger comes first
    const shares = of.map((run) => share(run, i)).filter((v) => v !== null);
    const most = shares.length ? Math.max(...shares) : -1;
    switch (field("sort")) {
      case "miss": return images[i].label ? 1 + most : -1;
      case "alarm": return images[i].label ? -1 : 1 + most;
      case "spread": return shares.length > 1 ? most - Math.min(...shares) : -1;
      case "path": return 0;
      default: return most;
    }
  };
  const verdict = (run, i) => {
    const n = run.wrong[i], others = run.others[images[i].label];
    if (n === null) return ["not in this run", false];
    if (!others) return ["nothing to compare with", false];
    const name = images[i].label ? (n ? "missed" : "found") : n ? "false alarm" : "calm";
    return [`${name}: ${verdicts[name].replace("{wrong}", n).replace("{others}", others)}`, n > 0];
  };
  const brief = (run, i) => {
    const [text, wrong] = verdict(run, i), word = text.split(":")[0];
    return [wrong ? `${word} ${(100 * share(run, i)).toFixed(share(run, i) < 0.1 ? 1 : 0)} %` : word, wrong];
  };
  const picture = (source, alt, why) => {
    if (!source) return make("span", "shot", why);
    const image = make("img", "shot");
    image.loading = "lazy";
    image.decoding = "async";
    image.alt = alt;
    image.src = `../pictures/${source}`;
    return image;
  };
  const photograph = (i, outlined) => {
    const { file, label, drawn: there, path } = images[i];
    return picture(there && `images/${file}${outlined && label ? "_o" : ""}.jpg`, path, "no picture stored");
  };
  const heat = (run, i) => picture(run.maps && run.at[i] !== null && `${run.maps}/${run.at[i]}.png`, `map of ${run.head}`, "no map stored");
  const cell = (title, colour, shot, words = "", wrong = false, hint = "") => {
    const name = make("b", colour, title);
    name.title = title;
    const said = make("span", wrong ? "verdict wrong" : "verdict", words);
    said.title = hint;
    return make("span", "cell", shot, name, said);
  };
  const cells = (i, of, long) => of.map((run) => {
    const [words, wrong] = long ? verdict(run, i) : brief(run, i);
    const score = run.score[i] === null ? "" : `score ${run.score[i]}`;
    return cell(long ? run.head : called(run), `c${run.colour}`, heat(run, i), long ? `${words}; ${score}, seed ${run.seed}` : words, wrong, `${verdict(run, i)[0]}; ${score}`);
  });
  const titleOf = (i) => [make("span", "kind", images[i].kind), ` · ${images[i].path}`];

  const draw = () => {
    const of = chosenRuns(), outlined = $("#outline").checked;
    for (const i of shown.slice(drawn, drawn + BATCH)) {
      const name = make("span", "name", ...titleOf(i));
      name.title = images[i].path;
      const card = make("button", "card", name, cell("image", "plain", photograph(i, outlined)), ...cells(i, of, false));
      card.type = "button";
      card.tabIndex = cards.children.length === at ? 0 : -1;
      cards.append(make("li", "", card));
    }
    drawn = Math.min(drawn + BATCH, shown.length);
    more.hidden = drawn >= shown.length;
    more.textContent = `show ${Math.min(BATCH, shown.length - drawn)} more`;
  };
  const refresh = () => {
    const of = chosenRuns(), method = field("of"), kind = field("kind");
    const by = method ? of.filter((run) => run.head === method) : of;
    const keys = new Map();
    shown = images.map((_, i) => i).filter((i) => (!kind || images[i].kind === kind) && of.some((run) => run.wrong[i] !== null));
    for (const i of shown) keys.set(i, keyOf(i, field("sort") === "spread" ? of : by));
    shown.sort((a, b) => keys.get(b) - keys.get(a) || a - b);
    [at, drawn] = [0, 0];
    cards.replaceChildren();
    const cells = Math.min(of.length + 1, 7);  // side by side
    cards.style.setProperty("--cells", cells);
    cards.style.setProperty("--card", `${cells * 7.4 + 1.2}rem`);
    draw();
    const few = total > images.length ? `; ${total} test images in all` : "";
    $("#count").textContent = `${shown.length} of ${images.length} images${few}`;
  };
  const focusCard = (to) => {
    at = Math.max(0, Math.min(to, shown.length - 1));
    while (drawn <= at) draw();
    for (const [k, item] of [...cards.children].entries()) item.firstChild.tabIndex = k === at ? 0 : -1;
    cards.children[at].firstChild.focus();
  };
  const columns = () => getComputedStyle(cards).gridTemplateColumns.split(" ").length;
  const step = { ArrowRight: () => 1, ArrowLeft: () => -1, ArrowDown: columns, ArrowUp: () => -columns() };
  const open = () => {
    const i = shown[at], of = chosenRuns();
    const shots = [cell("image", "plain", photograph(i, false))];
    if (images[i].label) shots.push(cell("defect outlined", "plain", photograph(i, true)));
    $("div", dialog).replaceChildren(make("h3", "", `${at + 1} of ${shown.length}: `, ...titleOf(i)), make("div", "big", ...shots, ...cells(i, of, true)));
    if (!dialog.open) dialog.showModal();
  };
  cards.addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    if (card) { focusCard([...cards.children].indexOf(card.parentNode)); open(); }
  });
  cards.addEventListener("keydown", (event) => {
    const to = event.key === "Home" ? 0 : event.key === "End" ? shown.length - 1 : event.key in step ? at + step[event.key]() : -1;
    if (to >= 0 && to < shown.length) { event.preventDefault(); focusCard(to); }
  });
  dialog.addEventListener("keydown", (event) => {
    const to = event.key in step ? at + Math.sign(step[event.key]()) : -1;
    if (to >= 0 && to < shown.length) { event.preventDefault(); at = to; open(); }
  });
  dialog.addEventListener("close", () => focusCard(at));
  dialog.addEventListener("click", (event) => { if (event.target === dialog || event.target.closest(".close")) dialog.close(); });
  document.addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() !== "o" || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input[type=text]")) return;
    $("#outline").click();
  });
  more.addEventListener("click", () => { const first = drawn; draw(); focusCard(first); });
  for (const name of ["sort", "of", "kind", "seed", "outline"]) $(`#${name}`)?.addEventListener("change", refresh);
  const category = $("#category");
  if (category) {
    category.value = location.pathname.split("/").pop();
    category.addEventListener("change", () => { location.href = `${category.value}#gallery`; });
  }
  refresh();
};
if (window.GALLERY) startGallery(window.GALLERY);
