/** A chart of curves by step, with a slider to read them by keyboard or by pointing. */

import { words } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [440, 216, 52, 8, 14, 20];

/** A number in the page's language, short. */
export function number(value) {
  const far = value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6);
  const how = far ? { notation: "scientific", maximumFractionDigits: 2 } : { maximumSignificantDigits: 4 };
  return new Intl.NumberFormat(words("locale"), how).format(value);
}

/** A step, whole. */
export const whole = (value) => new Intl.NumberFormat(words("locale")).format(value);

/** A figure's name in the page's language, or as it stands in the metrics. */
const called = (name) => words(name) ?? name;

function shape(kind, attributes, text) {
  const element = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Round numbers from `low` to `high`, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) found.push(i * step || 0); // never -0
  return found;
}

/** The last point of `points` at or before `step`. */
function at(points, step) {
  let [from, to] = [0, points.length];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (points[middle][0] <= step) from = middle + 1;
    else to = middle;
  }
  return points[from - 1];
}

export class Chart {
  /** `name` is the chart's in the metrics. */
  constructor(name) {
    this.name = name;
    this.element = document.createElement("figure");
    this.element.dataset.chart = name;
    this.title = document.createElement("h3");
    this.svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
    this.slider = document.createElement("input");
    this.slider.type = "range";
    this.readout = document.createElement("output");
    this.marks = shape("g", {});
    this.following = true; // the slider stays at the newest step until it is moved
    const caption = document.createElement("figcaption");
    caption.append(this.title);
    this.element.append(caption, this.svg, this.slider, this.readout);
    this.slider.addEventListener("input", () => this.moved(Number(this.slider.value)));
    this.svg.addEventListener("pointermove", (event) => this.pointed(event));
  }

  /** Draw `lines`: [{name, points: [[step, value], …]}, …], none of them empty. */
  draw(lines) {
    this.lines = lines;
    const every = lines.flatMap((line) => line.points);
    [this.first, this.last] = [Infinity, -Infinity];
    let [low, high] = [Infinity, -Infinity];
    for (const [step, value] of every) {
      this.first = Math.min(this.first, step);
      this.last = Math.max(this.last, step);
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    const pad = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    const floor = low < 0 || low >= pad ? low - pad : 0; // no room below zero for what is never negative
    [this.low, this.high] = [floor, high + pad];
    const parts = [];
    for (const value of ticks(this.low, this.high, 5)) {
      const y = this.y(value);
      parts.push(shape("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y }));
      parts.push(shape("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, number(value)));
    }
    if (this.last > this.first) {
      for (const step of ticks(this.first, this.last, 4).filter(Number.isInteger)) {
        parts.push(shape("text", { x: this.x(step), y: HEIGHT - 5, "text-anchor": "middle" }, whole(step)));
      }
    }
    lines.forEach(({ points }, index) => {
      const places = points.map(([step, value]) => `${this.x(step).toFixed(1)},${this.y(value).toFixed(1)}`);
      parts.push(shape("polyline", { class: `line-${index % 3}`, points: places.join(" ") }));
    });
    this.svg.replaceChildren(...parts, this.marks);
    this.title.textContent = called(this.name);
    this.svg.setAttribute(
      "aria-label",
      words("drawn", called(this.name), this.values(this.last), number(low), number(high)),
    );
    [this.slider.min, this.slider.max, this.slider.step] = [this.first, this.last, 1];
    this.slider.setAttribute("aria-label", words("cursor", called(this.name)));
    if (this.following) this.slider.value = this.last;
    this.read();
  }

  x(step) {
    const share = this.last > this.first ? (step - this.first) / (this.last - this.first) : 0.5;
    return LEFT + share * (WIDTH - LEFT - RIGHT);
  }

  y(value) {
    return TOP + ((this.high - value) / (this.high - this.low)) * (HEIGHT - TOP - BOTTOM);
  }

  moved(step) {
    this.following = step >= this.last;
    this.read();
  }

  pointed(event) {
    const box = this.svg.getBoundingClientRect();
    const share = (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT);
    this.slider.value = Math.round(this.first + Math.min(Math.max(share, 0), 1) * (this.last - this.first));
    this.moved(Number(this.slider.value));
  }

  /** What the curves say at `step`, in words. */
  values(step) {
    return this.lines
      .map((line) => [line, at(line.points, step)])
      .filter(([, point]) => point)
      .map(([line, point]) => words("value", called(line.name), number(point[1])))
      .join(words("between"));
  }

  /** Tell and mark the values at the slider. */
  read() {
    const step = Number(this.slider.value);
    const told = words("at", whole(step), this.values(step));
    this.readout.textContent = told;
    this.slider.setAttribute("aria-valuetext", told);
    const marks = [
      shape("line", { class: "cursor", x1: this.x(step), x2: this.x(step), y1: TOP, y2: HEIGHT - BOTTOM }),
    ];
    this.lines.forEach(({ points }, index) => {
      const point = at(points, step);
      if (point) {
        marks.push(
          shape("circle", { class: `line-${index % 3}`, cx: this.x(point[0]), cy: this.y(point[1]), r: 3 }),
        );
      }
    });
    this.marks.replaceChildren(...marks);
  }
}
