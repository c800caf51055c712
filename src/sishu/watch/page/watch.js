/** The page of a run: asks the server now and then how the stages are, and draws the one looked at. */

import { Chart, number, whole } from "./chart.js";
import { speak, words, writePage } from "./words.js";

const EVERY = 2000;
const byId = (id) => document.getElementById(id);
const [list, facts, charts, texts, notice] = ["stages", "facts", "charts", "texts", "notice"].map(byId);

let stages = [];
let chosen = null; // the stage somebody asked for
let shown = null; // the name of the stage on the page
let latest = null; // what its charts were drawn from
let drawn = new Map();
let buttons = new Map();
let told = new Map();
let timer = 0;
let rounds = 0; // an answer that comes after a newer question is passed over

async function get(path) {
  const response = await fetch(path);
  if (response.status === 204) return null;
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  return response.json();
}

/** The stage to show: the one asked for, the one at work, the last with curves, or the first. */
function wanted() {
  const names = stages.map((stage) => stage.name);
  if (names.includes(chosen)) return chosen;
  const busy = stages.find((stage) => stage.state === "running" && stage.steps);
  return (busy ?? stages.findLast((stage) => stage.steps) ?? stages[0])?.name ?? null;
}

async function look() {
  clearTimeout(timer);
  const round = ++rounds;
  let soon = false;
  try {
    const { run, stages: found } = await get("/watch/run");
    if (round !== rounds) return;
    stages = found;
    byId("run").textContent = run;
    document.title = `${run} · sishu`;
    const name = wanted();
    if (name !== shown) {
      [shown, latest, drawn] = [name, null, new Map()];
      charts.replaceChildren();
    }
    if (name !== null) {
      const seen = latest === null ? "" : `?seen=${latest.version}`;
      const answer = await get(`/watch/stages/${encodeURIComponent(name)}${seen}`);
      if (round !== rounds) return;
      if (answer !== null) {
        latest = answer;
        drawCharts();
      }
      soon = latest.read < 1;
    }
    notice.hidden = true;
    writeStages();
    writeFacts();
    announce();
  } catch {
    if (round !== rounds) return;
    notice.textContent = words("unreachable");
    notice.hidden = false;
  }
  if (!document.hidden) timer = setTimeout(look, soon ? 50 : EVERY);
}

function writeStages() {
  for (const [name, button] of buttons) {
    if (!stages.some((stage) => stage.name === name)) {
      button.closest("li").remove();
      buttons.delete(name);
    }
  }
  stages.forEach((stage, index) => {
    const button = buttons.get(stage.name) ?? makeButton(stage.name);
    button.className = stage.state;
    button.setAttribute("aria-current", String(stage.name === shown));
    button.querySelector(".state").textContent = words(stage.state);
    const progress = button.querySelector("progress");
    progress.hidden = !stage.total;
    progress.max = stage.total || 1;
    progress.value = stage.steps;
    progress.setAttribute("aria-label", words("step"));
    put(list, button.closest("li"), index);
  });
}

/** Make `element` the child number `index`; one that stands there is not moved, which would take its focus. */
function put(parent, element, index) {
  if (parent.children[index] !== element) parent.insertBefore(element, parent.children[index] ?? null);
}

function makeButton(name) {
  const [item, button, title, state] = ["li", "button", "span", "span"].map((k) => document.createElement(k));
  button.type = "button";
  title.textContent = name;
  state.className = "state";
  button.append(title, state, document.createElement("progress"));
  button.addEventListener("click", () => {
    chosen = name;
    look();
  });
  item.append(button);
  buttons.set(name, button);
  return button;
}

function duration(seconds) {
  const s = Math.round(seconds);
  return words("duration", Math.floor(s / 3600), Math.floor((s % 3600) / 60), s % 60);
}

function writeFacts() {
  const stage = stages.find((one) => one.name === shown);
  byId("stage-name").textContent = stage ? stage.name : "";
  const rows = [];
  if (stage) {
    rows.push(["state", words(stage.state)]);
    const done = whole(stage.steps);
    if (stage.steps) rows.push(["step", stage.total ? words("ofSteps", done, whole(stage.total)) : done]);
    if (stage.seconds !== null) rows.push(["worked", duration(stage.seconds)]);
    if (stage.seconds_left !== null) rows.push(["left", duration(stage.seconds_left)]);
    for (const name of ["loss", "validation_loss"]) {
      if (stage[name] !== null) rows.push([name, number(stage[name])]);
    }
    if (latest?.read < 1) rows.push(["stage", words("reading", Math.floor(latest.read * 100))]);
  }
  facts.replaceChildren(
    ...rows.map(([name, value]) => {
      const [row, term, detail] = ["div", "dt", "dd"].map((kind) => document.createElement(kind));
      term.textContent = words(name);
      detail.textContent = value;
      detail.dataset.fact = name;
      row.append(term, detail);
      return row;
    }),
  );
  byId("nothing").hidden = !latest || latest.charts.length > 0;
}

function drawCharts() {
  const names = latest.charts.map((chart) => chart.name);
  for (const [name, chart] of drawn) {
    if (!names.includes(name)) {
      chart.element.remove();
      drawn.delete(name);
    }
  }
  latest.charts.forEach(({ name, lines }, index) => {
    const chart = drawn.get(name) ?? new Chart(name);
    drawn.set(name, chart);
    chart.draw(lines);
    put(charts, chart.element, index);
  });
  byId("samples").hidden = latest.samples.length === 0;
  texts.replaceChildren(
    ...latest.samples.map(({ step, name, text }) => {
      const [item, where, body] = ["li", "p", "p"].map((kind) => document.createElement(kind));
      where.className = "where";
      where.textContent = words("at", whole(step), name);
      body.textContent = text;
      item.append(where, body);
      return item;
    }),
  );
}

/** Say aloud which stages have come to another state. */
function announce() {
  const news = stages.filter(({ name, state }) => told.has(name) && told.get(name) !== state);
  for (const { name, state } of stages) told.set(name, state);
  if (news.length) {
    byId("announcer").textContent = news
      .map(({ name, state }) => words("changed", name, words(state)))
      .join(words("between"));
  }
}

for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => {
    speak(button.dataset.language);
    writeStages();
    writeFacts();
    if (latest) drawCharts();
  });
}
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) look();
});
writePage();
look();
