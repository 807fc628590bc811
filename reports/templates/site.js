// Every view has a link: what is chosen stands in the address as #name=value&name=value. A plain #anchor is left alone.
"use strict";

const address = {
  read() {
    const text = location.hash.slice(1);
    return new URLSearchParams(text.includes("=") ? text : "");
  },
  /** Merge `changes` into the address; an empty value leaves. `step`: the browser's Back undoes it. */
  write(changes, step = false) {
    const now = this.read();
    for (const [name, value] of Object.entries(changes)) value ? now.set(name, value) : now.delete(name);
    const text = String(now);
    history[step ? "pushState" : "replaceState"](null, "", text ? `#${text}` : location.pathname + location.search);
  },
};

/** Selects that hide what does not match: [data-item] elements by their data-<name>, and [data-group]s without any. */
function filters(form) {
  const show = () => {
    const items = [...document.querySelectorAll("[data-item]")];
    const chosen = [...form.elements].filter((e) => e.name && e.value);
    for (const item of items) item.hidden = chosen.some((e) => item.dataset[e.name] !== e.value);
    for (const group of document.querySelectorAll("[data-group]"))
      group.hidden = !group.querySelector("[data-item]:not([hidden])");
    const left = items.filter((item) => !item.hidden).length;
    const output = form.querySelector("output");
    output.textContent = `${left} of ${items.length} ${output.dataset.what}`;
  };
  const load = () => {
    const given = address.read();
    for (const e of form.elements) if (e.name) e.value = given.get(e.name) ?? "";
    show();
  };
  form.addEventListener("change", () => {
    address.write(Object.fromEntries([...form.elements].filter((e) => e.name).map((e) => [e.name, e.value])));
    show();
  });
  addEventListener("hashchange", load);
  form.hidden = false;
  load();
}

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Expected and actual on one stage: a slider between them, or one after the other; the other pictures beside it. */
function viewer(box) {
  const parts = new Map();
  for (const part of box.querySelectorAll("[data-name]")) {
    const image = part.querySelector("img");
    if (image) parts.set(part.dataset.name, { image, label: part.querySelector("span").textContent });
  }
  const [expected, actual] = [parts.get("expected"), parts.get("actual")];
  if (!expected || !actual) return;
  const copy = (part) => {
    const image = part.image.cloneNode();
    image.loading = "lazy";
    return image;
  };
  const [below, above] = [copy(expected), copy(actual)];
  above.className = "above";
  const wipe = make("input", {
    type: "range", min: 0, max: 100, value: 50, class: "wipe", "aria-label": "expected to the left, actual to the right of",
  });
  const says = make("span", { class: "says", "aria-live": "polite" });
  const stage = make("div", { class: "stage" }, below, above, make("span", { class: "edge" }), wipe, says);
  const views = new Map([["slider", "slider"], ["swap", "hover flip"]]);
  for (const [name, part] of parts) if (name !== "expected" && name !== "actual") views.set(name, part.label);
  const tools = make("div", { class: "tools", role: "group", "aria-label": "how to compare" });
  let view = "slider";
  let other = false;

  const draw = () => {
    stage.dataset.view = view;
    stage.style.setProperty("--at", `${wipe.value}%`);
    stage.tabIndex = view === "swap" ? 0 : -1;
    wipe.hidden = view !== "slider";
    const single = view === "slider" || view === "swap" ? null : parts.get(view);
    below.src = single ? single.image.src : expected.image.src;
    below.alt = single ? single.image.alt : expected.image.alt;
    above.hidden = Boolean(single) || (view === "swap" && !other);
    says.textContent = single ? single.label
      : view === "swap" ? (other ? "actual" : "expected: point at it, or press space, for actual")
      : "expected | actual";
    for (const button of tools.children) button.setAttribute("aria-pressed", button.value === view);
  };
  const choose = (name) => { view = name; other = false; draw(); };
  for (const [name, label] of views) {
    const button = make("button", { type: "button", value: name }, label);
    button.addEventListener("click", () => {
      choose(name);
      address.write({ at: box.dataset.viewer, view: name });
    });
    tools.append(button);
  }
  const flip = (on) => () => { if (view === "swap") { other = on; draw(); } };
  stage.addEventListener("pointerenter", flip(true));
  stage.addEventListener("pointerleave", flip(false));
  stage.addEventListener("keydown", (event) => {
    if (view === "swap" && event.key === " ") { event.preventDefault(); other = !other; draw(); }
  });
  wipe.addEventListener("input", draw);
  box.prepend(stage, tools);
  box.classList.add("live");
  draw();
  return choose;
}

/** Bring the part of the page that the address names into view, opened. */
function reveal(choosers) {
  const given = address.read();
  const name = given.get("at") ?? (location.hash.includes("=") ? "" : decodeURIComponent(location.hash.slice(1)));
  const target = name && document.getElementById(name);
  if (!target) return;
  for (let e = target; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
  const view = given.get("view");
  if (view) choosers.get(name)?.(view);
  target.scrollIntoView();
}

addEventListener("DOMContentLoaded", () => {
  for (const form of document.querySelectorAll("[data-filters]")) filters(form);
  const choosers = new Map();
  for (const box of document.querySelectorAll("[data-viewer]")) choosers.set(box.dataset.viewer, viewer(box));
  reveal(choosers);
  addEventListener("hashchange", () => reveal(choosers));
});
