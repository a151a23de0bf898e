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
  return column === 0 ? text : parseFloat(text.replace("\u2212", "-"));
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

// Charts: a panel per logged name, a line per run; moving over one reads its values off.
const WIDTH = 320, HEIGHT = 190, LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 26;
const charts = [];

function ticks(low, high, count) {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) found.push(Math.abs(at) < step / 1e6 ? 0 : at);
  return found;
}

function short(number) {
  const size = Math.abs(number);
  if (size >= 1e6) return `${+(number / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(number / 1e3).toPrecision(3)}k`;
  return String(+number.toPrecision(4));
}

function extent(lines, floor) {
  const xs = lines.flatMap((line) => line.points.map((point) => point[0]));
  const settled = lines.flatMap((line) => line.points.slice(Math.floor(line.points.length / 10)).map((point) => point[1]));
  const ys = lines.flatMap((line) => line.points.map((point) => point[1])).concat(floor ?? []);
  const low = Math.min(...ys), high = Math.max(...settled, ...(floor === null ? [] : [floor])); // the first steps would flatten what comes after them
  const room = 0.05 * (high - low || 1);
  return {x: [Math.min(...xs), Math.max(...xs)], y: [low - room, high + room]};
}

class Chart {
  constructor(root, panel) {
    this.panel = panel;
    this.readout = element("p", {class: "readout", "aria-live": "polite"});
    this.svg = svg("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: "0", "aria-label": `${panel.title}, against images seen. Arrow keys read values off.`});
    this.svg.addEventListener("pointermove", (event) => {
      const box = this.svg.getBoundingClientRect();
      this.read(this.image((event.clientX - box.left) / box.width * WIDTH));
    });
    this.svg.addEventListener("pointerleave", () => this.read(null));
    this.svg.addEventListener("keydown", (event) => {
      const way = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (!way || !this.lines.length) return;
      event.preventDefault();
      const xs = this.lines[0].points.map((point) => point[0]);
      const here = this.cursor === null || this.cursor === undefined ? (way > 0 ? -1 : xs.length) : xs.indexOf(nearest(this.lines[0], this.cursor)[0]);
      this.read(xs[Math.max(0, Math.min(xs.length - 1, here + way))]);
    });
    root.append(element("div", {class: "panel-chart"}, element("h4", {}, panel.title), this.svg, this.readout));
    this.draw(() => true);
  }

  place(point) {
    const {x, y} = this.range;
    return [LEFT + (point[0] - x[0]) / (x[1] - x[0] || 1) * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - (point[1] - y[0]) / (y[1] - y[0] || 1) * (HEIGHT - TOP - BOTTOM)];
  }

  image(across) {
    const {x} = this.range;
    return x[0] + (across - LEFT) / (WIDTH - LEFT - RIGHT) * (x[1] - x[0]);
  }

  draw(shown) {
    this.lines = this.panel.lines.filter((line) => line.points.length && shown(line.label));
    this.svg.replaceChildren();
    if (!this.lines.length) return;
    this.range = extent(this.lines, this.panel.floor);
    for (const at of ticks(...this.range.y, 4)) {
      const [, y] = this.place([0, at]);
      this.svg.append(svg("line", {class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y}), svg("text", {x: LEFT - 5, y: y + 3.5, "text-anchor": "end"}, short(at)));
    }
    for (const at of ticks(...this.range.x, 4)) this.svg.append(svg("text", {x: this.place([at, 0])[0], y: HEIGHT - 8, "text-anchor": "middle"}, short(at)));
    const inside = svg("svg", {width: WIDTH, height: HEIGHT - BOTTOM}); // which cuts off what reaches below it
    this.svg.append(inside);
    if (this.panel.floor !== null) {
      const [, y] = this.place([0, this.panel.floor]);
      this.svg.append(svg("line", {class: "floor", x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y}));
    }
    for (const line of this.lines) {
      inside.append(svg("polyline", {class: `line series-${line.colour}`, points: line.points.map((point) => this.place(point).map((n) => n.toFixed(1)).join(",")).join(" ")}));
    }
    this.marker = svg("line", {class: "marker", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden"});
    this.svg.append(this.marker);
    this.read(null);
  }

  read(image) {
    this.cursor = image;
    if (image === null || !this.lines.length) {
      this.marker?.setAttribute("visibility", "hidden");
      this.readout.textContent = this.lines.length ? `at the end: ${this.values(Infinity)}` : "";
      return;
    }
    const at = nearest(this.lines[0], image)[0], [x] = this.place([at, 0]);
    for (const name of ["x1", "x2"]) this.marker.setAttribute(name, x);
    this.marker.setAttribute("visibility", "visible");
    this.readout.textContent = `after ${short(at)} images: ${this.values(at)}`;
  }

  values(image) {
    const named = this.lines.map((line) => `${this.panel.lines.length > 1 ? `${line.name} ` : ""}${short(nearest(line, image)[1])}`);
    return named.slice(0, 6).join(", ") + (named.length > 6 ? ` and ${named.length - 6} more` : "");
  }
}

function nearest(line, image) {
  if (image === Infinity) return line.points.at(-1);
  return line.points.reduce((best, point) => (Math.abs(point[0] - image) < Math.abs(best[0] - image) ? point : best));
}

for (const root of document.querySelectorAll("[data-chart]")) {
  const panels = page.charts[root.dataset.chart], colours = new Map(panels.flatMap((panel) => panel.lines.map((line) => [line.label, line.colour])));
  if (colours.size > 1) root.before(element("p", {class: "legend"}, ...[...colours].map(([label, colour]) => element("span", {class: `key series-${colour}`, "data-label": label}, label))));
  for (const panel of panels) charts.push(new Chart(root, panel));
}

// Composers: sheets of tiles that were drawn ahead, of which canvases show a row; where a server is there, whatever was not drawn.
const sheets = [...document.querySelectorAll("img.sheet")];

const LINE = 4, GAP = 1; // tiles of a line of a canvas, and pixels between them

function lay(canvas, [height, width], number) {
  const lines = Math.ceil(number / LINE), across = Math.min(LINE, number);
  canvas.width = across * (width + GAP) - GAP;
  canvas.height = lines * (height + GAP) - GAP;
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = false;
  return (source, x, y, place) => pen.drawImage(source, x, y, width, height, (place % LINE) * (width + GAP), Math.floor(place / LINE) * (height + GAP), width, height);
}

function draw(canvas, source, row, tile, number, name, chosen = null) {
  canvas.setAttribute("aria-label", name);
  canvas.dataset.row = row;
  source.decode().then(() => {
    if (canvas.dataset.row !== String(row)) return; // another one was asked for meanwhile
    const put = lay(canvas, tile, number);
    for (let i = 0; i < number; i++) if (!chosen || chosen[i]) put(source, i * tile[1], row * tile[0], i);
  }, () => {});
}

async function fetched(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}

function joined(names) {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

function strip() {
  return element("canvas", {class: "strip", role: "img"});
}

function chooser(entries, chosen, changed) {
  const box = element("select", {onchange: () => changed(entries[box.selectedIndex])});
  for (const entry of entries) box.append(element("option", {"data-label": entry.label}, entries.some((other) => other !== entry && other.label === entry.label) ? `${entry.label}, seed ${entry.seed}` : entry.label));
  box.selectedIndex = entries.indexOf(chosen);
  return entries.length > 1 ? element("label", {class: "chooser"}, "Run ", box) : element("span", {class: "chooser"}, chosen.label);
}

class Interventions {
  constructor(name, entries, entry, on, changed) {
    Object.assign(this, {entries, entry, on, changed, seed: 0});
    this.box = element("fieldset", {class: "composed"}, element("legend", {}, name));
    this.body = element("div");
    this.box.append(this.body);
    this.build();
  }

  build() {
    const {entry} = this;
    this.ticks = entry.concepts.map((concept, place) => {
      const tick = element("input", {type: "checkbox", onchange: () => {
        tick.checked ? this.on.add(place) : this.on.delete(place);
        this.show();
        this.changed(this);
      }});
      tick.checked = this.on.has(place);
      return tick;
    });
    this.generated = strip();
    this.real = strip();
    this.status = element("p", {class: "status", "aria-live": "polite"});
    this.kind = element("p", {class: "note"});
    this.body.replaceChildren(
      chooser(this.entries, entry, (other) => {
        this.entry = other;
        if (other.concepts.join() !== entry.concepts.join()) this.on.clear();
        this.build();
        this.changed(this);
      }),
      element("div", {class: "ticks", role: "group", "aria-label": "Interventions"}, ...entry.concepts.map((concept, place) => element("label", {}, this.ticks[place], " ", concept))),
      this.status, this.generated, this.kind, this.real,
    );
    this.show();
  }

  set(on) {
    this.on = new Set(on);
    this.ticks.forEach((tick, place) => tick.checked = this.on.has(place));
    this.show();
  }

  get key() {
    return [...this.on].sort((a, b) => a - b).join(",");
  }

  get names() {
    return this.entry.concepts.filter((_, place) => this.on.has(place));
  }

  show() {
    const {entry, key} = this, row = entry.blind ? 0 : entry.rows[key], known = entry.contexts[key];
    const what = this.names.length ? `Intervened on ${joined(this.names)}` : "No intervention";
    const status = known?.trained ? "a context that was trained on" : this.on.size > 1 || !known ? "a composition never trained on" : "never trained on";
    const far = known?.distance === undefined ? "" : ` Distance to real images ${known.distance.toFixed(3)}${known.floor === undefined ? "" : `, floor of the data ${known.floor.toFixed(3)}`}.`;
    const blind = entry.blind ? " This method is told of no interventions: its images are the same whatever is ticked." : "";
    this.status.replaceChildren(`${what}: ${status}.${far}${blind}`);
    this.box.classList.toggle("new", !known?.trained);
    this.generated.hidden = row === undefined || this.seed > 0;
    if (!this.generated.hidden) draw(this.generated, sheets[entry.sheet], row, entry.tile, entry.columns, `${entry.columns} images generated by ${entry.label}. ${what}.`);
    else this.ask(what);
    const real = entry.real.rows?.[key];
    this.real.hidden = this.kind.hidden = real === undefined;
    if (real === undefined) return;
    this.kind.textContent = `Real images, ${entry.real.kind}:`;
    draw(this.real, sheets[entry.real.sheet], real, entry.tile, entry.columns, `Real images. ${what}.`);
  }

  async ask(what) {
    const {entry, key, seed} = this, there = await live;
    if (!there) {
      this.status.append(" These images were not drawn ahead of time; --mode=serve draws any set.");
      return;
    }
    const query = new URLSearchParams([["run", entry.run], ...this.names.map((name) => ["concept", name]), ["num", entry.columns], ["seed", seed]]);
    try {
      const image = await fetched(`api/samples?${query}`);
      if (this.key !== key || this.entry !== entry || this.seed !== seed) return;
      this.generated.hidden = false;
      draw(this.generated, image, 0, entry.tile, entry.columns, `${entry.columns} images generated by ${entry.label}. ${what}.`);
    } catch {
      this.status.append(" The server did not answer; tick again.");
    }
  }
}

function composeInterventions(root, {entries}) {
  const first = entries.find((entry) => !entry.blind) ?? entries[0], other = entries.find((entry) => entry !== first);
  const pair = Object.keys(first.contexts).find((key) => key.includes(",")) ?? Object.keys(first.rows).find((key) => key.includes(",")) ?? "";
  const on = () => new Set(pair.split(",").filter(Boolean).map(Number));
  const same = element("input", {type: "checkbox", onchange: () => same.checked && follow(panels[0])});
  same.checked = Boolean(other);
  const follow = (from) => {
    const [a, b] = panels, to = from === a ? b : a;
    if (same.checked && a.entry.concepts.join() === b.entry.concepts.join()) to.set(from.on);
    for (const [entry, canvas] of everyone) {
      const row = entry.blind ? 0 : entry.rows[a.key];
      canvas.closest("div").hidden = row === undefined || entry.concepts.join() !== a.entry.concepts.join();
      if (row !== undefined) draw(canvas, sheets[entry.sheet], row, entry.tile, entry.columns, `Images generated by ${entry.label}, seed ${entry.seed}, under the interventions of A.`);
    }
  };
  const everyone = entries.length > 2 ? entries.map((entry) => [entry, strip()]) : [];
  const panels = ["A", "B"].map((name, place) => new Interventions(name, entries, place ? other ?? first : first, place && !other ? new Set() : on(), follow));
  const clear = () => panels.forEach((panel) => panel.set([]));
  const fresh = element("button", {type: "button", hidden: "", onclick: () => panels.forEach((panel) => { panel.seed += 1; panel.show(); })}, "Other noise");
  live.then((there) => fresh.hidden = !there);
  root.append(
    element("p", {class: "controls"}, element("label", {}, same, " Same interventions in A and B"), element("button", {type: "button", onclick: clear}, "No interventions"), fresh),
    element("div", {class: "side-by-side"}, ...panels.map((panel) => panel.box)),
  );
  if (everyone.length) root.append(element("details", {}, element("summary", {}, "All runs under the interventions of A"),
    ...everyone.map(([entry, canvas]) => element("div", {"data-label": entry.label}, element("p", {class: "note"}, `${entry.label}, seed ${entry.seed}`), canvas))));
  follow(panels[0]);
}

class Actions {
  constructor(name, entries, entry) {
    Object.assign(this, {entries, entry, chain: []});
    this.body = element("div");
    this.box = element("fieldset", {class: "composed"}, element("legend", {}, name), this.body);
    this.build();
  }

  build() {
    const {entry} = this, half = entry.actions.length / 2;
    const button = (action) => element("button", {type: "button", onclick: () => { this.chain.push(action); this.show(); }}, entry.actions[action]);
    const columns = entry.actions.slice(0, half).map((_, factor) => element("span", {class: "pair"}, button(factor), button(factor + half)));
    this.status = element("p", {class: "status", "aria-live": "polite"});
    [this.start, this.expected, this.real] = [strip(), strip(), strip()];
    [this.said, this.kind, this.retrieved] = ["note", "note", "status"].map((kind) => element("p", {class: kind}));
    const views = [[element("p", {class: "note"}, "Test images before:"), this.start], [this.said, this.expected], [this.kind, this.real]];
    this.body.replaceChildren(
      chooser(this.entries, entry, (other) => { Object.assign(this, {entry: other, chain: []}); this.build(); }),
      element("div", {class: "ticks", role: "group", "aria-label": "Actions"}, ...columns),
      element("p", {class: "controls"},
        element("button", {type: "button", onclick: () => { this.chain.pop(); this.show(); }}, "Undo"),
        element("button", {type: "button", onclick: () => { this.chain = []; this.show(); }}, "Start again")),
      this.status, element("div", {class: "views"}, ...views.map((view) => element("div", {}, ...view))), this.retrieved);
    this.show();
  }

  show() {
    const {entry} = this, key = this.chain.join(","), row = entry.rows[key], names = this.chain.map((action) => entry.actions[action]);
    const what = names.length ? `After ${names.join(", then ")}` : "Before any action";
    this.status.textContent = `${what}.`;
    const exists = entry.real.exists[key];
    draw(this.start, sheets[entry.real.sheet], entry.rows[""], entry.tile, entry.columns, "Test images before any action.");
    this.said.textContent = names.length ? "Expected by the model:" : "Reconstructed from their codes:";
    this.expected.hidden = row === undefined;
    if (row !== undefined) draw(this.expected, sheets[entry.sheet], row, entry.tile, entry.columns, `${what}: images expected by ${entry.label}.`);
    else this.ask(what, key);
    this.real.hidden = this.kind.hidden = !names.length || row === undefined;
    this.kind.textContent = exists?.every(Boolean) ? "In the data:" : "In the data, where it is there:";
    if (row !== undefined) draw(this.real, sheets[entry.real.sheet], row, entry.tile, entry.columns, `${what}: images of the data.`, exists);
    const found = this.chain.length === 1 ? entry.retrieved[key] : null;
    this.retrieved.hidden = !found?.some(Boolean);
    if (found) this.retrieved.textContent = `Retrieved from each pair of images in the data: ${found.map((one) => (one ? `${entry.actions[one[0]]} ${Math.round(100 * one[1])} %${one[0] === this.chain[0] ? "" : " (wrong)"}` : "\u2013")).join("; ")}.`;
  }

  async ask(what, key) {
    const {entry} = this, there = await live;
    if (!there) {
      this.status.append(" Chains of this length were not drawn ahead of time; --mode=serve draws up to eight actions.");
      return;
    }
    const query = (image) => new URLSearchParams([["run", entry.run], ["image", image], ...this.chain.map((action) => ["action", entry.actions[action]])]);
    try {
      const found = [];
      for (const image of entry.images) found.push(await fetched(`api/actions?${query(image)}`)); // one at a time, as the server computes
      if (this.chain.join(",") !== key || this.entry !== entry) return;
      this.expected.hidden = false;
      this.expected.dataset.row = key;
      this.expected.setAttribute("aria-label", `${what}: images expected by ${entry.label}.`);
      const put = lay(this.expected, entry.tile, found.length);
      found.forEach((image, place) => put(image, image.width - entry.tile[1], 0, place));
    } catch {
      this.status.append(" The server did not answer; try again.");
    }
  }
}

function composeActions(root, {entries}) {
  root.append(element("div", {class: "side-by-side"}, ...(entries.length > 1 ? ["A", "B"] : ["Actions"]).map((name, place) => new Actions(name, entries, entries[place]).box)));
}

for (const root of document.querySelectorAll("[data-composer]")) {
  const data = page.composers[root.dataset.composer];
  root.hidden = false;
  ({interventions: composeInterventions, actions: composeActions})[data.kind](root, data);
}

// A word that hides the runs whose names do not hold it: rows, figures, lines and choices.
const filter = document.getElementById("filter");
filter?.addEventListener("input", () => {
  const shown = (label) => label.toLowerCase().includes(filter.value.trim().toLowerCase());
  for (const one of document.querySelectorAll("[data-label]")) one.hidden = !shown(one.dataset.label);
  for (const chart of charts) chart.draw(shown);
});
