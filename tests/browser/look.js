// Uses a page as a reader would and leaves what it found in <pre id="found"> as JSON.
"use strict";

// In a block: the page has functions of the same names.
{
const all = (selector) => [...document.querySelectorAll(selector)];
const visible = (element) => element.getClientRects().length > 0;
const choose = (select, value) => {
  select.value = value;
  select.dispatchEvent(new Event("change", { bubbles: true }));
};
const key = (element, name) => element.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
const soon = () => new Promise((resolve) => setTimeout(resolve, 50));

async function pictures() {
  for (const details of all("details")) details.open = true;
  for (const image of all("img")) image.loading = "eager";
  const loaded = await Promise.all(all("img").map((image) => image.decode().then(() => "", () => image.src)));
  return { images: loaded.length, broken: loaded.filter(Boolean) };
}

function slider() {
  const stage = document.querySelector(".stage");
  const [wipe, above] = [stage.querySelector(".wipe"), stage.querySelector(".above")];
  const cuts = [10, 80].map((value) => {
    wipe.value = value;
    wipe.dispatchEvent(new Event("input"));
    return getComputedStyle(above).clipPath;
  });
  wipe.focus();
  return { cuts, focused: document.activeElement === wipe };
}

function views() {
  const box = document.querySelector(".viewer");
  const [stage, tools] = [box.querySelector(".stage"), box.querySelector(".tools")];
  const [below, above] = stage.querySelectorAll("img");
  const press = (name) => tools.querySelector(`[value="${name}"]`).click();
  press("swap");
  const shown = [visible(above)];
  stage.dispatchEvent(new PointerEvent("pointerenter"));
  shown.push(visible(above));
  stage.dispatchEvent(new PointerEvent("pointerleave"));
  key(stage, " ");
  shown.push(visible(above));
  press("flip");
  return { shown, flip: below.src === box.querySelector('[data-name="flip"] img').src, hash: location.hash };
}

function filters() {
  const form = document.querySelector("[data-filters]");
  const select = [...form.elements].find((e) => e.name && e.options.length > 2);
  const value = select.options[1].value;
  const items = all("[data-item]");
  choose(select, value);
  const right = items.every((item) => item.hidden === (item.dataset[select.name] !== value));
  const found = { name: select.name, value, right, left: items.filter((item) => !item.hidden).length, items: items.length,
    says: form.querySelector("output").textContent, hash: location.hash };
  choose(select, "");
  return { ...found, again: items.filter((item) => !item.hidden).length };
}

/** Bars of the whole model: how long each is drawn, and where its floor stands, beside what its row says. */
function bars() {
  const rows = [...document.querySelectorAll("#step tbody tr")].filter((row) => row.querySelector(".span"));
  return rows.map((row) => {
    const [bar, floor] = [row.querySelector(".span"), row.querySelector(".span i")];
    return { way: row.querySelector("th").textContent.trim(), drawn: bar.getBoundingClientRect().width,
      floor: floor.getBoundingClientRect().left - bar.getBoundingClientRect().left };
  });
}

/** Plots without a table in the same section. */
function alone() {
  return all("svg.dots, .span, .stack-bar").filter((plot) => !plot.closest("section").querySelector("table")).length;
}

async function series() {
  const link = document.querySelector("#rows a");
  const before = location.href;
  link.click();
  await soon();
  const box = document.getElementById("view");
  const [svg, says] = [box.querySelector("svg"), box.querySelector(".reading")];
  const last = says.textContent;
  key(svg, "Home");
  const first = says.textContent;
  key(svg, "ArrowRight");
  const second = says.textContent;
  const found = { opened: visible(box), moved: new Set([last, first, second]).size, rows: box.querySelectorAll("tbody tr").length,
    bands: svg.querySelectorAll(".band").length, cuts: svg.querySelectorAll(".cut").length, changed: location.href !== before };
  history.back();
  await new Promise((resolve) => setTimeout(resolve, 300));
  return { ...found, closed: !visible(box) };
}

addEventListener("load", async () => {
  const found = { wrong, width: innerWidth, scrolled: document.documentElement.scrollWidth, paper: getComputedStyle(document.body).backgroundColor };
  found.took = Math.round(performance.getEntriesByType("navigation")[0].domComplete);
  try {
    found.restored = { hash: location.hash, hidden: all("[data-item]").filter((item) => item.hidden).length,
      open: Boolean(document.getElementById("view")?.dataset.view), view: document.querySelector(".stage")?.dataset.view };
    if (!location.hash) {
      Object.assign(found, await pictures());
      if (document.querySelector(".stage")) Object.assign(found, { slider: slider(), views: views() });
      if (document.querySelector("[data-filters]")) found.filters = filters();
      if (document.getElementById("step")) Object.assign(found, { bars: bars(), alone: alone() });
      if (document.getElementById("rows")) found.series = await series();
    }
  } catch (error) {
    wrong.push(`${error.message} ${error.stack}`);
  }
  document.body.prepend(Object.assign(document.createElement("pre"), { id: "found", textContent: JSON.stringify(found) }));
});
}
