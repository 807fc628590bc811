// Every series of TRENDS as a row with its course, and the one that the address names (#view=...) as a large plot.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const PLACES = ["machine", "op", "dtype", "shape"];
const groups = new Map();
for (const line of TRENDS.lines) groups.set(line.view, [...(groups.get(line.view) ?? []), line]);
for (const lines of groups.values()) lines.sort((a, b) => (a.impl !== "reference") - (b.impl !== "reference"));

function shape(tag, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

const digits = (value) => Number(value.toPrecision(3)).toString();

function told(value, unit) {
  if (value === null || value === undefined) return "failed";
  if (unit === "bytes") return `${Math.round(value / 2 ** 20).toLocaleString("en")} MiB`;
  if (unit !== "seconds") return `${Number(value.toPrecision(4))} ${unit}`;
  for (const [factor, name] of [[1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]])
    if (Math.abs(value) >= factor * 0.9995) return `${digits(value / factor)} ${name}`;
  return `${value} s`;
}

const band = (line, i) => (line.bands[i] ? ` ±${(line.bands[i] / 100).toFixed(1)} %` : "");

function compared(lines, at = (line) => line.values.length - 1) {
  const [reference, fused] = ["reference", "fused"].map((name) => lines.find((line) => line.impl === name));
  const [a, b] = [reference, fused].map((line) => line?.values[at(line)]);
  if (!a || !b || reference.unit !== "seconds") return "";
  return a >= b ? `${(a / b).toFixed(2)}× faster` : `${(b / a).toFixed(2)}× slower`;
}

const columnsOf = (lines) => [...new Set(lines.flatMap((line) => line.at))].sort((a, b) => a - b);

/** Maps points to a drawing of this size; logarithmic where values span more than a factor of four. */
function frame(lines, width, height, margin, columns) {
  const column = new Map(columns.map((at, i) => [at, i]));
  const ends = lines.flatMap((line) => line.values.flatMap((value, i) =>
    value === null ? [] : [value * (1 - line.bands[i] / 1e4), value * (1 + line.bands[i] / 1e4)]));
  let [low, high] = ends.length ? [Math.min(...ends), Math.max(...ends)] : [0, 1];
  const log = low > 0 && high > 4 * low;
  if (low === high) [low, high] = low ? [low - Math.abs(low) / 20, high + Math.abs(high) / 20] : [-1, 1];
  const scale = (value) => (log ? Math.log(value) : value);
  const pad = (scale(high) - scale(low)) * 0.06;
  const [bottom, top] = [scale(low) - pad, scale(high) + pad];
  const inner = [width - margin.left - margin.right, height - margin.top - margin.bottom];
  return {
    columns, low, high, log, width, height, margin,
    x: (at) => margin.left + (columns.length > 1 ? (inner[0] * column.get(at)) / (columns.length - 1) : inner[0] / 2),
    y: (value) => margin.top + inner[1] * (1 - (scale(value) - bottom) / (top - bottom)),
    nearest: (x) => columns[Math.max(0, Math.min(columns.length - 1,
      Math.round(((x - margin.left) / inner[0]) * (columns.length - 1))))],
  };
}

/** Runs of points without a gap: nothing joins two environments, or leads over a failure. */
function pieces(line) {
  const found = [[]];
  line.values.forEach((value, i) => {
    if (i && line.era && line.era[i] !== line.era[i - 1]) found.push([]);
    value === null ? found.push([]) : found.at(-1).push(i);
  });
  return found.filter((piece) => piece.length);
}

function draw(svg, lines, f, dots) {
  lines.forEach((line) => {
    const name = line.impl === "reference" ? "reference" : "other";
    for (const piece of pieces(line)) {
      const point = (i, value) => `${f.x(line.at[i]).toFixed(1)} ${f.y(value).toFixed(1)}`;
      const edge = (sign) => piece.map((i) => point(i, line.values[i] * (1 + (sign * line.bands[i]) / 1e4)));
      if (piece.some((i) => line.bands[i]))
        svg.append(shape("path", { class: `band ${name}`, d: `M${edge(1).join("L")}L${edge(-1).reverse().join("L")}Z` }));
      svg.append(shape("path", { class: `course ${name}`, d: `M${piece.map((i) => point(i, line.values[i])).join("L")}` }));
      if (dots || piece.length === 1)
        for (const i of piece)
          svg.append(shape("circle", { class: name, cx: f.x(line.at[i]).toFixed(1), cy: f.y(line.values[i]).toFixed(1), r: dots ? 2.6 : 2 }));
    }
    line.values.forEach((value, i) => {
      if (value === null)
        svg.append(shape("text", { class: "broken", x: f.x(line.at[i]), y: f.height - f.margin.bottom - 3, "text-anchor": "middle" }, "✕"));
    });
  });
}

const eventsOf = (view) => TRENDS.events.filter((event) => event.view === view);

function row(view, lines) {
  const [first] = lines;
  const svg = shape("svg", { class: "spark", viewBox: "0 0 220 36", "aria-hidden": "true" });
  // Each line has its own scale: what counts here is whether it moved.
  for (const line of lines) draw(svg, [line], frame([line], 220, 36, { left: 3, right: 3, top: 3, bottom: 3 }, columnsOf(lines)), false);
  const link = make("a", { href: `#${new URLSearchParams({ view })}` }, `${first.op} ${first.shape}`);
  const quiet = (text) => make("span", { class: "quiet" }, text);
  const newest = lines.flatMap((line, i) => [i ? ", " : "", told(line.values.at(-1), line.unit), quiet(` ${line.impl}`)]);
  const events = eventsOf(view);
  const last = events.find((event) => event.standing) ?? events.sort((a, b) => b.at - a.at)[0];
  const cell = (label, ...children) => make("td", { "data-label": label }, ...children);
  const made = make("tr", { "data-item": "" },
    make("th", { scope: "row" }, link, quiet(` ${first.name}, ${first.machine}`)),
    cell("newest", ...newest), cell("to reference", compared(lines)), cell("course", svg), cell("last change", last?.told ?? ""));
  if (last?.standing) made.classList.add("marked");
  for (const name of PLACES) made.dataset[name] = first[name];
  return made;
}

function ticks(f) {
  const wanted = [];
  if (f.log) {
    for (let power = Math.floor(Math.log10(f.low)); power <= Math.ceil(Math.log10(f.high)); power++)
      for (const m of [1, 2, 5]) wanted.push(m * 10 ** power);
  } else {
    const rough = (f.high - f.low) / 4;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
    for (let value = Math.ceil(f.low / step) * step; value <= f.high; value += step) wanted.push(value);
  }
  return wanted.filter((value) => value >= f.low && value <= f.high);
}

const PANEL = 190;

/** One line's panel, `top` units down: its own scale, so that a step shows however far apart two implementations are. */
function panel(svg, line, events, columns, width, top, last) {
  const f = frame([line], width, PANEL, { left: 70, right: 16, top: 30, bottom: last ? 26 : 10 }, columns);
  const g = shape("g", { transform: `translate(0 ${top})` });
  const side = (at) => f.x(at) > width / 2 ? { x: f.x(at) - 4, "text-anchor": "end" } : { x: f.x(at) + 4, "text-anchor": "start" };
  g.append(shape("text", { class: "name", x: 8, y: 18 }, line.impl));
  for (const value of ticks(f)) {
    g.append(shape("path", { class: "rule", d: `M70 ${f.y(value)}H${width - 16}` }));
    g.append(shape("text", { class: "tick", x: 64, y: f.y(value) + 4, "text-anchor": "end" }, told(value, line.unit)));
  }
  line.era?.forEach((era, i) => {
    if (!i || era === line.era[i - 1]) return;
    g.append(shape("path", { class: "cut", d: `M${f.x(line.at[i])} 12V${PANEL - f.margin.bottom}` }));
    g.append(shape("text", { class: "tick", y: 20, ...side(line.at[i]) }, line.eras[Math.max(era, line.era[i - 1])]));
  });
  draw(g, [line], f, columns.length <= 60);
  for (const event of events.filter((one) => one.impl === line.impl && columns.includes(one.at))) {
    const value = line.values[line.at.indexOf(event.at)] ?? f.low;
    g.append(shape("path", { class: event.standing ? "step standing" : "step", d: `M${f.x(event.at)} ${f.y(value) - 6}l-5 -9h10z` }));
  }
  if (last)
    for (const at of [columns[0], columns.at(-1)])
      g.append(shape("text", { class: "tick", x: f.x(at), y: PANEL - 7, "text-anchor": at === columns[0] ? "start" : "end" }, TRENDS.commits[at]));
  svg.append(g);
  return f;
}

function plot(lines, events, says) {
  const width = Math.max(320, Math.min(1280, document.getElementById("main").clientWidth - 80));
  const columns = columnsOf(lines);
  const height = PANEL * lines.length;
  const svg = shape("svg", { class: "plot-large", viewBox: `0 0 ${width} ${height}`, tabindex: 0, role: "img",
    "aria-label": "over commits; arrow keys read the points, the table holds them all" });
  const f = lines.map((line, i) => panel(svg, line, events, columns, width, PANEL * i, i === lines.length - 1))[0];
  const cursor = shape("path", { class: "cursor" });
  svg.append(cursor);
  let now = columns.at(-1);
  const read = (at) => {
    now = at;
    cursor.setAttribute("d", `M${f.x(at)} 12V${height - 26}`);
    says.textContent = [TRENDS.commits[at], ...lines.flatMap((line) => {
      const i = line.at.indexOf(at);
      if (i < 0) return [];
      const count = line.n[i] ? ` (${line.n[i]} ${line.n[i] === 1 ? "process" : "processes"})` : "";
      return [`${line.impl} ${told(line.values[i], line.unit)}${band(line, i)}${count}`];
    }), ...events.filter((event) => event.at === at).map((event) => `${event.impl} ${event.told}`)].join(" · ");
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    read(f.nearest(((event.clientX - box.left) / box.width) * width));
  });
  svg.addEventListener("keydown", (event) => {
    const i = columns.indexOf(now);
    const to = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: columns.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    read(columns[Math.max(0, Math.min(columns.length - 1, to))]);
  });
  read(now);
  return svg;
}

function table(lines) {
  const columns = columnsOf(lines).reverse();
  const body = make("tbody");
  for (const at of columns) {
    const cells = lines.map((line) => {
      const points = line.at.flatMap((one, i) => one !== at ? [] : [told(line.values[i], line.unit) + band(line, i)]);
      return make("td", { class: "n" }, points.join(", "));
    });
    body.append(make("tr", {}, make("th", { scope: "row" }, make("code", {}, TRENDS.commits[at])), ...cells));
  }
  const head = make("tr", {}, make("th", { scope: "col" }, "commit, newest first"), ...lines.map((line) => make("th", { scope: "col", class: "n" }, line.impl)));
  const made = make("table", {}, make("thead", {}, head), body);
  return make("details", {}, make("summary", {}, `All ${columns.length} commits as a table`),
    make("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "every point" }, made));
}

function open() {
  const view = address.read().get("view") ?? "";
  const [box, lines] = [document.getElementById("view"), groups.get(view)];
  if (box.dataset.view === view) return;
  box.dataset.view = view;
  box.hidden = !view;
  box.replaceChildren();
  if (!view) return;
  if (!lines) {
    box.append(make("p", { class: "empty" }, `Not measured: there is no series ${view}`));
    return;
  }
  const [first] = lines;
  const close = make("button", { type: "button" }, "close");
  close.addEventListener("click", () => { address.write({ view: "" }, true); open(); });
  const says = make("p", { class: "quiet reading", "aria-live": "polite" });
  const events = eventsOf(view);
  const list = make("ul", { class: "plain" });
  for (const event of events) list.append(make("li", {}, `${event.impl}: ${event.told} (${event.certainty})`));
  box.append(make("h2", {}, `${first.op} ${first.shape}, ${first.name} `, make("span", { class: "quiet" }, `${first.dtype} on ${first.machine} `), close),
    plot(lines, events, says), says, list, table(lines));
  box.scrollIntoView();
}

const rows = document.getElementById("rows");
for (const [view, lines] of [...groups].sort(([a], [b]) => a < b ? -1 : 1)) rows.tBodies[0].append(row(view, lines));
rows.hidden = false;
rows.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  address.write({ view: new URLSearchParams(link.hash.slice(1)).get("view") }, true);
  open();
});
addEventListener("hashchange", open);
addEventListener("popstate", open);
addEventListener("DOMContentLoaded", open);
