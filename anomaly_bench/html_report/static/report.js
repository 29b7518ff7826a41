// Sorting of tables, light and dark, switches, read-outs; the state in the address.  No network, no library.
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

// --- what the reader chose, in the address: a copied link shows the same
const chosen = new URLSearchParams(location.search);
const choose = (key, value) => {  // null: nothing
  if (value === null) chosen.delete(key); else chosen.set(key, value);
  const query = chosen.toString();
  try { history.replaceState(null, "", `${location.pathname}${query && `?${query}`}${location.hash}`); } catch { /* not kept */ }
};
const bind = (field, key, unchosen) => {  // a field that shows and sets one entry
  if (chosen.has(key)) {
    if (field.type === "checkbox") field.checked = chosen.get(key) === "1";
    else if (field.type !== "select-one" || [...field.options].some((o) => o.value === chosen.get(key))) field.value = chosen.get(key);
  }
  const value = () => (field.type === "checkbox" ? String(Number(field.checked)) : field.value);
  field.addEventListener("input", () => choose(key, value() === unchosen ? null : value()));
};

// --- light, dark, or as the system; also kept where the browser lets a file keep anything
const store = { get() { try { return localStorage.getItem("theme"); } catch { return null; } },
                set(v) { try { localStorage.setItem("theme", v); } catch { /* not kept */ } } };
const setTheme = (theme) => { if (theme) root.dataset.theme = theme; else delete root.dataset.theme; };
setTheme(chosen.get("theme") ?? store.get());
$("#theme").addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = root.dataset.theme || (dark ? "dark" : "light");
  setTheme(now === "dark" ? "light" : "dark");
  store.set(root.dataset.theme);
  choose("theme", root.dataset.theme);
});
document.addEventListener("click", (event) => {  // the theme goes along to other pages of the report
  const link = event.target.closest?.("a[href]");
  if (!link || !chosen.has("theme") || !link.pathname.endsWith(".html") || link.pathname === location.pathname) return;
  link.search = new URLSearchParams({ theme: chosen.get("theme") });
}, true);

// --- tables: a click sorts, figures the highest first; another one turns round; cells without a figure stay last
const value = (row, column) => {
  const cell = row.cells[column];
  if (cell.dataset.v === undefined) return cell.textContent.trim();
  return cell.dataset.v === "" ? null : Number(cell.dataset.v);
};
const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b
  : String(a).localeCompare(String(b), "en", { numeric: true }));
const sortBy = (head, order) => {
  const table = head.closest("table"), column = head.cellIndex, sign = order === "ascending" ? 1 : -1;
  for (const other of $$("[aria-sort]", table)) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const rows = [...table.tBodies[0].rows].sort((r, s) => {
    const a = value(r, column), b = value(s, column);
    return a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b);
  });
  table.tBodies[0].append(...rows);
};
for (const [k, table] of $$("table.sortable").entries()) {
  const key = `sort${k}`, [column, order] = (chosen.get(key) ?? "").split(".");
  if (table.tHead.rows[0].cells[column]) sortBy(table.tHead.rows[0].cells[column], order === "up" ? "ascending" : "descending");
  for (const button of $$("thead button", table)) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const figures = [...table.tBodies[0].rows].some((row) => typeof value(row, head.cellIndex) === "number");
      const was = head.getAttribute("aria-sort");
      const up = was ? was === "descending" : !figures;
      sortBy(head, up ? "ascending" : "descending");
      choose(key, `${head.cellIndex}.${up ? "up" : "down"}`);
    });
  }
}

// --- one of several matrices at a time
for (const group of $$(".switched")) {
  const radios = $$("input", group), key = radios[0].name;
  for (const radio of radios) if (radio.value === chosen.get(key)) radio.checked = true;
  const show = () => {
    const chosen = $("input:checked", group).value;
    for (const part of $$("[data-metric]", group)) part.hidden = part.dataset.metric !== chosen;
  };
  group.addEventListener("change", () => { show(); choose(key, $("input:checked", group).value); });
  show();
}

// --- two settings side by side: the entries in which they differ
for (const part of $$(".compare")) {
  const selects = $$("select", part);
  const show = () => {
    const [one, other] = selects.map((select) => Number(select.value) + 1);
    for (const row of $$("tr", part)) {
      for (const [k, cell] of [...row.cells].entries()) cell.hidden = k > 0 && k !== one && k !== other;
      row.hidden = row.parentNode.tagName === "TBODY" && row.cells[one].textContent === row.cells[other].textContent;
    }
  };
  for (const [k, select] of selects.entries()) { bind(select, select.id, String(k)); select.addEventListener("input", show); }
  show();
}

// --- charts: the nearest point under the pointer, read out
const readout = make("div");
readout.id = "readout";
readout.hidden = true;
document.body.append(readout);
const readAt = (at, [low, high, start, end, log]) => {
  const share = (at - start) / (end - start);
  return Number((log ? low * (high / low) ** share : low + share * (high - low)).toPrecision(4));
};
for (const chart of $$("svg.chart[data-axes]")) {
  const axes = JSON.parse(chart.dataset.axes), points = [];
  for (const part of $$("polyline, .mark, .normal, .anomalous", chart)) {
    const title = $("title", part);
    part.dataset.title = title?.textContent ?? "";
    title?.remove();  // else the browser shows it as well, later
    for (const { x, y } of part.points ?? []) points.push([x, y, part]);
    const moved = part.classList.contains("mark") && part.transform.baseVal[0].matrix;
    if (moved) points.push([moved.e, moved.f, part]);
  }
  const show = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
    const distance = ([x, y]) => (x - at.x) ** 2 + (y - at.y) ** 2;
    let near = [at.x, at.y, event.target];
    if (points.length) near = points.reduce((best, point) => (distance(point) < distance(best) ? point : best));
    for (const part of $$(".near", chart)) part.classList.remove("near");
    near[2].classList.add("near");
    const values = axes.map((axis, k) => make("span", "", `${axis[5]}: ${readAt(near[k], axis)}`));
    readout.replaceChildren(...(near[2].dataset.title ? [make("b", "", near[2].dataset.title)] : []), ...values);
    readout.hidden = false;
    const { width, height } = readout.getBoundingClientRect();
    readout.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
    readout.style.top = `${event.clientY + 18 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 18}px`;
  };
  for (const name of ["pointermove", "pointerdown"]) chart.addEventListener(name, show);
  chart.addEventListener("pointerleave", () => { readout.hidden = true; for (const part of $$(".near", chart)) part.classList.remove("near"); });
}

// --- pictures in layers: all have the shape of the lowest one
document.addEventListener("load", ({ target }) => {
  if (target.matches?.(".stack > :first-child")) target.parentNode.style.setProperty("--shape", target.naturalWidth / target.naturalHeight);
}, true);

// --- runs: a link to one opens it; paper shows all
const openTarget = () => {
  const aim = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let part = aim && aim.closest("details"); part; part = part.parentNode.closest("details")) part.open = true;
};
addEventListener("hashchange", openTarget);
addEventListener("beforeprint", () => { for (const part of $$("details")) part.open = true; });
openTarget();
