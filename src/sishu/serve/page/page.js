/** The chat page: one conversation, held in memory, answered by the server that sent the page. */

import { Failure, ask, listModels } from "./api.js";
import { Turn, remark } from "./turn.js";
import { say, speak, words, writePage } from "./words.js";

const byId = (id) => document.getElementById(id);
const [composer, field, send, stop] = ["composer", "composer-text", "send", "stop"].map(byId);
const [model, temperature, key, settings] = ["model", "temperature", "key", "settings"].map(byId);
const [scroller, turnsList, welcome, notice] = ["scroller", "turns", "welcome", "notice"].map(byId);

const STORED_KEY = "sishu.key";
const NEAR_BOTTOM = 80;

/** What was said; only exchanges that have an answer are sent along again. */
let turns = [];
/** The AbortController of the answer under way, else null. */
let running = null;

// ---- sending and stopping

async function submit() {
  const question = field.value.trim();
  if (!question || running) return;
  if (!temperature.checkValidity() || temperature.value === "") {
    settings.open = true;
    showNotice("badTemperature");
    temperature.focus();
    return;
  }
  field.value = "";
  fitField();
  welcome.hidden = true;
  const turn = new Turn(question, turnsList, scroller);
  turns.push(turn);
  await answer(turn);
}

async function answer(turn) {
  const controller = new AbortController();
  running = controller;
  showNotice(null);
  showRunning(true);
  turn.begin();
  announce(words("thinking"));
  const began = performance.now();
  try {
    const result = await ask({
      model: model.value || undefined,
      messages: conversation(turn.question),
      temperature: Number(temperature.value),
      key: key.value.trim(),
      signal: controller.signal,
      onText: (text) => {
        if (running === controller) turn.write(text);
      },
    });
    if (running === controller) endAnswer(turn, result, (performance.now() - began) / 1000);
  } catch (error) {
    if (running !== controller) return;
    if (error.name === "AbortError") endStopped(turn);
    else endFailed(turn, error);
  } finally {
    if (running === controller) {
      running = null;
      showRunning(false);
    }
  }
}

/** The messages to send: finished exchanges, then the new question. */
function conversation(question) {
  const messages = [];
  for (const turn of turns) {
    if (!turn.done || !turn.answer) continue;
    messages.push({ role: "user", content: turn.question });
    messages.push({ role: "assistant", content: turn.answer });
  }
  return [...messages, { role: "user", content: question }];
}

function newChat() {
  running?.abort();
  running = null;
  showRunning(false);
  turns = [];
  turnsList.replaceChildren();
  welcome.hidden = false;
  showNotice(null);
  announce(words("cleared"));
  field.focus();
}

// ---- the ways an answer ends

function endAnswer(turn, { finish, tokens }, seconds) {
  const notes = [];
  if (!turn.answer.trim()) notes.push(remark("silent"));
  if (finish === "length") notes.push(remark("cutShort"));
  notes.push(remark("tokens", tokens, seconds.toFixed(1)));
  turn.end(...notes);
  announce(turn.answer.trim() || words("silent"));
}

function endStopped(turn) {
  turn.end(remark("stopped"));
  announce(words("stopped"));
  field.focus();
}

function endFailed(turn, error) {
  const reason = explain(error);
  reason.className = "trouble";
  const retry = document.createElement("button");
  retry.type = "button";
  retry.className = "quiet";
  say(retry, "retry");
  retry.addEventListener("click", () => {
    if (running) return;
    field.focus();
    answer(turn);
  });
  turn.fail(reason, retry);
}

function explain(error) {
  if (!(error instanceof Failure)) return remark("refused", String(error));
  if (error.code === "invalid_api_key") {
    askForKey();
    return remark("needsKey");
  }
  const known = { unreachable: "unreachable", broken: "broken", context_length_exceeded: "tooLong" };
  return error.code in known ? remark(known[error.code]) : remark("refused", error.message);
}

// ---- the rest of the page

function showRunning(is) {
  send.hidden = is;
  stop.hidden = !is;
}

function showNotice(name, ...fillings) {
  notice.hidden = name === null;
  if (name !== null) say(notice, name, ...fillings);
}

function announce(text) {
  byId("announcer").textContent = text;
}

function fitField() {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight}px`;
}

function askForKey() {
  byId("key-field").hidden = false;
  settings.open = true;
}

async function fillModels() {
  try {
    const ids = await listModels(key.value.trim());
    const chosen = model.value;
    model.replaceChildren(...ids.map((id) => new Option(id, id)));
    if (ids.includes(chosen)) model.value = chosen;
    showNotice(ids.length ? null : "noModels");
  } catch (error) {
    const told = explain(error);
    showNotice(told.dataset.words, ...JSON.parse(told.dataset.fillings));
  }
}

function fillSuggestions() {
  byId("suggestions").replaceChildren(
    ...words("suggestions").map((text) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "quiet";
      button.textContent = text;
      button.addEventListener("click", () => {
        field.value = text;
        field.focus();
        submit();
      });
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  );
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  field.focus();
  submit();
});

/** Whether a key press belongs to an input method choosing characters (229 is Safari's way). */
const composing = (event) => event.isComposing || event.keyCode === 229;

field.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || composing(event)) return;
  event.preventDefault();
  submit();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running && !composing(event)) running.abort();
});

field.addEventListener("input", fitField);
stop.addEventListener("click", () => running?.abort());
byId("new-chat").addEventListener("click", newChat);

key.addEventListener("change", () => {
  try {
    sessionStorage.setItem(STORED_KEY, key.value.trim());
  } catch {
    // Kept in the field alone.
  }
  fillModels();
});

for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => {
    speak(button.dataset.language);
    fillSuggestions();
  });
}

try {
  key.value = sessionStorage.getItem(STORED_KEY) ?? "";
} catch {
  key.value = "";
}
if (key.value) byId("key-field").hidden = false;
writePage();
fillSuggestions();
fillModels();
field.focus();
