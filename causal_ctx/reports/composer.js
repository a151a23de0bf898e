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
    const put = lay(canvas, tile, number), high = Math.round(source.naturalHeight / tile[0]), across = Math.floor(row / high) * number;
    for (let i = 0; i < number; i++) if (!chosen || chosen[i]) put(source, (across + i) * tile[1], (row % high) * tile[0], i);
  }, () => {});
}

// The tiles of an image from the server, as many beside one another.
function tileOf(image, number) {
  return [image.naturalHeight, image.naturalWidth / number];
}

// The number under which the server knows the run, -1 where there is none.
async function served(entry) {
  return (await live)?.runs.findIndex((run) => run.folder === entry.folder) ?? -1;
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
    const far = known?.distance == null ? "" : ` Distance to real images ${known.distance.toFixed(3)}${known.floor == null ? "" : `, floor of the data ${known.floor.toFixed(3)}`}.`;
    const blind = entry.blind ? " This method is told of no interventions: its images are the same whatever is ticked." : "";
    this.status.replaceChildren(`${what}: ${status}.${far}${blind}`);
    this.box.classList.toggle("new", !known?.trained);
    const drawn = row !== undefined && this.seed === 0;
    this.generated.classList.toggle("waiting", !drawn);
    if (drawn) this.generated.hidden = false;
    if (drawn) draw(this.generated, sheets[entry.sheet], row, entry.tile, entry.columns, `${entry.columns} images generated by ${entry.label}. ${what}.`);
    else this.ask(what);
    const real = entry.real.rows?.[key];
    this.real.hidden = this.kind.hidden = real === undefined;
    if (real === undefined) return;
    this.kind.textContent = `Real images, ${entry.real.kind}:`;
    draw(this.real, sheets[entry.real.sheet], real, entry.tile, entry.real.columns, `Real images. ${what}.`);
  }

  async ask(what) {
    const {entry, key, seed} = this, run = await served(entry), same = () => this.key === key && this.entry === entry && this.seed === seed;
    if (run < 0) {
      if (!same()) return;
      this.generated.hidden = true;
      this.status.append(" These images were not drawn ahead of time; --mode=serve draws any set.");
      return;
    }
    if (same()) this.status.append(" Computing\u2026");
    const query = new URLSearchParams([["run", run], ...this.names.map((name) => ["concept", name]), ["num", entry.columns], ["seed", seed]]);
    try {
      const image = await fetched(`api/samples?${query}`);
      if (!same()) return;
      this.status.lastChild.remove();
      this.generated.hidden = false;
      this.generated.classList.remove("waiting");
      draw(this.generated, image, 0, tileOf(image, entry.columns), entry.columns, `${entry.columns} images generated by ${entry.label}. ${what}.`);
    } catch {
      if (same()) this.status.append(" The server did not answer, or is at work; tick again.");
    }
  }
}

function composeInterventions(root, {entries, runs}) {
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
  const clear = () => {
    panels.forEach((panel) => panel.set([]));
    follow(panels[0]);
  };
  const reseed = (seed) => panels.forEach((panel) => {
    panel.seed = seed(panel.seed);
    panel.show();
  });
  const fresh = element("span", {hidden: ""}, element("button", {type: "button", onclick: () => reseed((seed) => seed + 1)}, "Other noise"), " ",
    element("button", {type: "button", onclick: () => reseed(() => 0)}, "First noise"));
  live.then((there) => fresh.hidden = !there);
  root.append(
    element("p", {class: "controls"}, element("label", {}, same, " Same interventions in A and B"), element("button", {type: "button", onclick: clear}, "No interventions"), fresh),
    element("div", {class: "side-by-side"}, ...panels.map((panel) => panel.box)),
  );
  if (everyone.length) root.append(element("details", {}, element("summary", {}, `${runs > entries.length ? `${entries.length} of ${runs} runs` : "All runs"} under the interventions of A`),
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
    const {entry} = this, run = await served(entry), same = () => this.chain.join(",") === key && this.entry === entry;
    if (run < 0) {
      if (same()) this.status.append(" Chains of this length were not drawn ahead of time; --mode=serve draws up to eight actions.");
      return;
    }
    const query = (image) => new URLSearchParams([["run", run], ["image", image], ...this.chain.map((action) => ["action", entry.actions[action]])]);
    try {
      const found = [];
      for (const image of entry.images) { // one at a time, as the server computes
        if (!same()) return;
        found.push(await fetched(`api/actions?${query(image)}`));
      }
      if (!same()) return;
      this.expected.hidden = false;
      this.expected.dataset.row = key;
      this.expected.setAttribute("aria-label", `${what}: images expected by ${entry.label}.`);
      const tile = tileOf(found[0], 1 + this.chain.length), put = lay(this.expected, tile, found.length);
      found.forEach((image, place) => put(image, image.naturalWidth - tile[1], 0, place));
    } catch {
      if (same()) this.status.append(" The server did not answer, or is at work; try again.");
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

