"use strict";
const page = JSON.parse(document.getElementById("page-data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const live = location.protocol.startsWith("http")
  ? fetch("api/about").then((answer) => (answer.ok ? answer.json() : null)).catch(() => null) : Promise.resolve(null);

function element(tag, attributes = {}, ...children) {
  const made = attributes.svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name !== "svg" && value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const svg = (tag, attributes, ...children) => element(tag, {svg: true, ...attributes}, ...children);

// Tables: a click on a column's head sorts the rows of every group: ascending, descending, as written.
const ORDERS = {none: "ascending", ascending: "descending", descending: "none"};

function value(row, column) {
  const text = row.cells[column].textContent;
  return column === 0 ? text : parseFloat(text.replace("\u2212", "-").replaceAll(",", ""));
}

function compare(a, b, sign) {
  if (typeof a === "string") return sign * a.localeCompare(b, undefined, {numeric: true});
  if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b); // what is not known comes last
  return sign * (a - b);
}

function sort(table, column, order) {
  const sign = order === "descending" ? -1 : 1;
  for (const group of table.tBodies) {
    const rows = [...group.rows].slice(1).sort((a, b) =>
      order === "none" ? a.dataset.place - b.dataset.place : compare(value(a, column), value(b, column), sign));
    group.append(...rows);
  }
}

for (const table of document.querySelectorAll("table.wide")) {
  for (const group of table.tBodies) [...group.rows].forEach((row, place) => row.dataset.place = place);
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = element("button", {type: "button"}, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = ORDERS[head.getAttribute("aria-sort") || "none"];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (order !== "none") head.setAttribute("aria-sort", order);
      sort(table, column, order);
    });
  });
}

// Commands to copy.
for (const block of document.querySelectorAll("[data-copy]")) {
  const said = element("output", {class: "said"});
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(block.textContent);
      said.value = "Copied.";
    } catch {
      getSelection().selectAllChildren(block);
      said.value = "Selected; copy it with the keyboard.";
    }
  };
  block.closest("pre").after(element("p", {class: "copy"}, element("button", {type: "button", onclick: copy}, "Copy the command"), " ", said));
}

// A word that hides the runs whose names do not hold it: rows, figures, lines and choices.
const filter = document.getElementById("filter");
filter?.addEventListener("input", () => {
  const shown = (label) => label.toLowerCase().includes(filter.value.trim().toLowerCase());
  for (const one of document.querySelectorAll("[data-label]")) one.classList.toggle("filtered", !shown(one.dataset.label));
  for (const group of document.querySelectorAll("table.wide tbody")) group.classList.toggle("filtered", !group.querySelector("[data-label]:not(.filtered)"));
  for (const chart of charts) chart.draw(shown);
  const runs = [...document.querySelectorAll(".facts tr[data-label]")];
  document.getElementById("filtered").value = `${runs.filter((row) => shown(row.dataset.label)).length} of ${runs.length} runs in tables, figures, curves and menus.`;
});
