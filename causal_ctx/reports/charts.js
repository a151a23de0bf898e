// Charts: a panel per logged name, a line per run; moving over one reads its values off.
const WIDTH = 320, HEIGHT = 190, LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 26;
const DASHES = ["none", "6 3", "1.5 3", "8 3 1.5 3"]; // of lines beyond the six colours
const charts = [];

function style(number) {
  return {class: `line series-${number % 6}`, "stroke-dasharray": DASHES[Math.floor(number / 6) % DASHES.length]};
}

function ticks(low, high, count) {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough);
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
    this.readout = element("p", {class: "readout"});
    this.svg = svg("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "slider", tabindex: "0", "aria-label": `${panel.title}, against images seen`});
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
    if (!this.lines.length) return this.read(null);
    this.range = extent(this.lines, this.panel.floor);
    for (const at of ticks(...this.range.y, 5)) {
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
      inside.append(svg("polyline", {...style(line.colour), points: line.points.map((point) => this.place(point).map((n) => n.toFixed(1)).join(",")).join(" ")}));
    }
    this.marker = svg("line", {class: "marker", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden"});
    this.svg.append(this.marker);
    this.read(null);
  }

  read(image) {
    this.cursor = image;
    this.marker?.setAttribute("visibility", "hidden");
    if (!this.lines.length) this.say("", 0);
    else if (image === null) this.say(`at the end: ${this.values(Infinity)}`, this.lines[0].points.at(-1)[0]);
    else {
      const at = nearest(this.lines[0], image)[0], [x] = this.place([at, 0]);
      for (const name of ["x1", "x2"]) this.marker.setAttribute(name, x);
      this.marker.setAttribute("visibility", "visible");
      this.say(`after ${short(at)} images: ${this.values(at)}`, at);
    }
  }

  say(words, at) {
    this.readout.textContent = words;
    this.svg.setAttribute("aria-valuenow", at);
    this.svg.setAttribute("aria-valuetext", words || "no run is shown");
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
  if (colours.size > 1) root.before(element("p", {class: "legend"}, ...[...colours].map(([label, colour]) => element("span", {class: `key series-${colour % 6}`, "data-label": label},
    svg("svg", {viewBox: "0 0 24 4", "aria-hidden": "true"}, svg("line", {...style(colour), x2: 24, y1: 2, y2: 2})), label))));
  for (const panel of panels) charts.push(new Chart(root, panel));
}

