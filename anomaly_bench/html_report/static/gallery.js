// The gallery of a category, filled from data/*.js; what it uses besides is in report.js.
"use strict";
const startGallery = ({ images, runs, total, among }) => {
  const cards = $("#cards"), dialog = $("#large"), more = $("#more"), section = $("#gallery");
  const field = (name) => $(`#${name}`)?.value ?? "";
  const SVG = $("svg").namespaceURI;
  let shown = [], drawn = 0, at = 0, alone = -1, batch = 24;
  const others = (run, i) => run.scores[1 - images[i].label].length;
  const share = (run, i) => (run.wrong[i] === null ? null : run.wrong[i] / Math.max(others(run, i), 1));

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

  // --- thresholds: an image is anomalous above it
  const thresholdOf = (run) => {
    if (field("rule") === "own") return run.threshold?.[0] ?? null;
    const normal = run.scores[0];
    if (field("rule") !== "alarms" || !normal.length) return null;
    const allowed = Math.min(Number(field("alarms")), normal.length);
    return allowed === normal.length ? -Infinity : normal[normal.length - 1 - allowed];
  };
  const above = (scores, threshold) => scores.filter((score) => score > threshold).length;
  const decision = (run, i) => {  // words, and whether the threshold decides against the label
    const threshold = thresholdOf(run);
    if (threshold === null || run.score[i] === null) return ["", false];
    const alarm = run.score[i] > threshold;
    if (images[i].label) return [alarm ? "found" : "missed", !alarm];
    return [alarm ? "false alarm" : "passed", alarm];
  };
  const figure = (n, all) => make("td", "", `${n} of ${all}`, make("small", "", `${all ? Number((100 * n / all).toPrecision(3)) : 0} %`));
  const showThresholds = () => {
    const of = chosenRuns().filter((run) => thresholdOf(run) !== null), table = $("#decided");
    table.hidden = !of.length;
    $("#alarms").disabled = field("rule") !== "alarms";
    $("#allowed").textContent = field("rule") === "alarms" ? `${field("alarms")} of ${$("#alarms").max} normal test images` : "";
    table.tBodies[0].replaceChildren(...of.map((run) => {
      const [normal, anomalous] = run.scores, threshold = thresholdOf(run), row = make("tr");
      const head = make("th", "", marker(run), run.head), at = threshold === -Infinity ? "any" : Number(threshold.toPrecision(6));
      head.scope = "row";
      const promised = field("rule") === "own" ? run.threshold[1] : "none: chosen on the test images";
      row.append(head, make("td", "", String(at)), figure(above(normal, threshold), normal.length),
        figure(anomalous.length - above(anomalous, threshold), anomalous.length), make("td", "", promised));
      return row;
    }));
  };

  const marker = (run) => {
    const svg = document.createElementNS(SVG, "svg"), path = document.createElementNS(SVG, "path");
    svg.setAttribute("viewBox", "-7 -7 14 14");
    svg.setAttribute("class", `swatch c${run.colour}`);
    path.setAttribute("d", run.marker);
    svg.append(path);
    return svg;
  };
  const verdict = (run, i, long) => {
    if (run.wrong[i] === null) return ["not in this run", false];
    const n = run.wrong[i], all = others(run, i), [said, wrong] = decision(run, i);
    const rank = `ranked ${run.rank[i]} of ${run.scores[0].length + run.scores[1].length}`;
    if (!long) return [said || rank, wrong];
    const rest = all ? among[images[i].label][Number(n > 0)].replace("{wrong}", n).replace("{others}", all) : "";
    return [[said, rank, rest, `score ${Number(run.score[i].toPrecision(5))}`].filter(Boolean).join("; "), wrong];
  };
  const layer = (source, alt, className = "") => {
    const image = make("img", className);
    image.loading = "lazy";
    image.decoding = "async";
    image.alt = alt;
    image.src = `../pictures/${source}`;
    return image;
  };
  const stack = (i, run) => {  // the image, the map over it, the outline of the defect over both
    const { file, drawn: there, outlined, path } = images[i], map = run?.maps && run.at[i] !== null;
    if (run ? !map : !there) return make("span", "shot none", run ? "no map stored" : "no picture stored");
    const made = make("span", "shot stack");
    if (there) made.append(layer(`images/${file}.jpg`, run ? "" : path));
    if (map) made.append(layer(`${run.maps}/${run.at[i]}${field("colours")}.png`, `map of ${run.head}`, "map"));
    if (outlined) made.append(layer(`images/${file}_o.png`, "", "outline"));
    return made;
  };
  const cell = (i, run, long) => {
    const name = make("b", "", ...(run ? [marker(run), long ? run.head : called(run)] : ["image"]));
    name.title = name.textContent;
    const [words, wrong] = run ? verdict(run, i, long) : ["", false];
    const said = make("span", wrong ? "verdict wrong" : "verdict", long && run ? `${words}, seed ${run.seed}` : words);
    if (run) said.title = verdict(run, i, true)[0];
    return make("span", "cell", stack(i, run), name, said);
  };
  const titleOf = (i) => [make("span", "kind", images[i].kind), ` · ${images[i].path}`];

  const draw = () => {
    const of = chosenRuns();
    for (const i of shown.slice(drawn, drawn + batch)) {
      const name = make("span", "name", ...titleOf(i));
      name.title = images[i].path;
      const card = make("button", "card", name, cell(i, null, false), ...of.map((run) => cell(i, run, false)));
      card.type = "button";
      card.tabIndex = cards.children.length === at ? 0 : -1;
      cards.append(make("li", "", card));
    }
    drawn = Math.min(drawn + batch, shown.length);
    more.hidden = drawn >= shown.length;
    more.textContent = `show ${Math.min(batch, shown.length - drawn)} more`;
  };
  const refresh = () => {
    const of = chosenRuns(), method = field("of"), kind = field("kind"), decided = field("decision");
    const by = method ? of.filter((run) => run.head === method) : of, keys = new Map();
    const label = { alarm: 0, miss: 1 }[decided];
    shown = images.map((_, i) => i).filter((i) => (!kind || images[i].kind === kind) && of.some((run) => run.wrong[i] !== null)
      && (!decided || (images[i].label === label && by.some((run) => decision(run, i)[1]))));
    for (const i of shown) keys.set(i, keyOf(i, field("sort") === "spread" ? of : by));
    shown.sort((a, b) => keys.get(b) - keys.get(a) || a - b);
    [at, drawn] = [0, 0];
    cards.replaceChildren();
    const cells = Math.min(of.length + 1, 10);  // side by side
    batch = innerWidth < 640 ? 6 : Math.max(8, Math.min(24, Math.round(96 / cells)));
    cards.style.setProperty("--cells", cells);
    cards.style.setProperty("--card", `${cells * 7.4 + 1.2}rem`);
    showThresholds();
    draw();
    const few = total > images.length ? `; ${total} test images in all` : "";
    $("#count").textContent = `${shown.length} of ${images.length} images${few}`;
  };
  const focusCard = (to) => {
    if (!shown.length) return;
    at = Math.max(0, Math.min(to, shown.length - 1));
    while (drawn <= at) draw();
    for (const [k, item] of [...cards.children].entries()) item.firstChild.tabIndex = k === at ? 0 : -1;
    cards.children[at].firstChild.focus();
  };
  const columns = () => getComputedStyle(cards).gridTemplateColumns.split(" ").length;
  const step = { ArrowRight: () => 1, ArrowLeft: () => -1, ArrowDown: columns, ArrowUp: () => -columns() };
  const open = () => {
    const i = shown[at], big = make("div", "big", cell(i, null, true), ...chosenRuns().map((run) => cell(i, run, true)));
    $("div", dialog).replaceChildren(make("h3", "", `${at + 1} of ${shown.length}: `, ...titleOf(i)), big);
    showAlone(alone);
    choose("image", images[i].path);
    if (!dialog.open) dialog.showModal();
  };
  const showAlone = (k) => {  // one picture in full size; -1: all of them
    alone = k;
    dialog.classList.toggle("alone", k >= 0);
    for (const [j, part] of [...$(".big", dialog).children].entries()) part.hidden = k >= 0 && j !== k;
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
    if (event.key === "Escape" && alone >= 0) { event.preventDefault(); showAlone(-1); }
  });
  dialog.addEventListener("close", () => { alone = -1; choose("image", null); focusCard(at); });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest(".close")) { dialog.close(); return; }
    const part = event.target.closest(".big > .cell");
    if (part && $(".stack", part)) showAlone(alone < 0 ? [...part.parentNode.children].indexOf(part) : -1);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() !== "o" || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input[type=text]")) return;
    $("#outline").click();
  });
  more.addEventListener("click", () => { const first = drawn; draw(); focusCard(first); });

  const showLayers = () => {  // no card is drawn anew, so that the place is kept
    section.classList.toggle("bare", !$("#outline").checked);
    section.style.setProperty("--opacity", Number(field("opacity")) / 100);
  };
  const recolour = () => {  // likewise
    for (const image of $$("img.map", section)) image.src = image.src.replace(/(_own)?\.png$/, `${field("colours")}.png`);
    for (const scale of $$(".scale", section)) scale.hidden = scale.dataset.colours !== field("colours");
  };
  const decide = () => { if (field("decision")) { refresh(); return; } showThresholds(); redecide(); };
  const redecide = () => {
    const of = chosenRuns();
    for (const [k, item] of [...cards.children].entries()) {
      for (const [j, run] of of.entries()) {
        const said = $$(".verdict", item)[j + 1], [words, wrong] = verdict(run, shown[k], false);
        said.textContent = words;
        said.classList.toggle("wrong", wrong);
      }
    }
  };
  for (const name of ["sort", "of", "kind", "seed", "rule", "alarms", "decision", "colours", "opacity", "outline"]) {
    const part = $(`#${name}`);
    if (!part) continue;
    bind(part, name, part.type === "checkbox" ? "1" : part.value);
    part.addEventListener("input", { opacity: showLayers, outline: showLayers, colours: recolour, rule: decide, alarms: decide }[name] ?? refresh);
  }
  const category = $("#category");
  if (category) {
    category.value = location.pathname.split("/").pop();
    category.addEventListener("change", () => {
      const kept = new URLSearchParams(chosen);
      for (const name of ["kind", "image", "alarms"]) kept.delete(name);
      location.href = `${category.value}?${kept}#gallery`;
    });
  }
  const wanted = chosen.get("image");  // before `refresh`, which draws
  refresh();
  showLayers();
  recolour();
  if (wanted && shown.some((i) => images[i].path === wanted)) { focusCard(shown.findIndex((i) => images[i].path === wanted)); open(); }
};
startGallery(window.GALLERY);
