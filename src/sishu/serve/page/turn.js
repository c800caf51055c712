/** One exchange on the page: a question, the answer as it is written, and a note below it. */

import { showProse } from "./prose.js";
import { say } from "./words.js";

/** How close to the end, in pixels, counts as reading along. */
const NEAR_BOTTOM = 80;

/** An element whose words follow the page's language. */
export function remark(name, ...fillings) {
  const element = document.createElement("span");
  say(element, name, ...fillings);
  return element;
}

export class Turn {
  #scroller;
  #item = document.createElement("li");
  #body;
  #note = document.createElement("p");
  #drawing = false;

  /** Put `question` at the end of `list`, which scrolls inside `scroller`. */
  constructor(question, list, scroller) {
    this.question = question;
    this.answer = "";
    /** Whether the answer is complete enough to be sent along with later questions. */
    this.done = false;
    this.#scroller = scroller;
    const asked = article("you", "question");
    asked.body.textContent = question;
    const said = article("assistant", "answer");
    this.#body = said.body;
    this.#note.className = "note";
    said.box.append(this.#note);
    this.#item.append(asked.box, said.box);
    list.append(this.#item);
    scroller.scrollTop = scroller.scrollHeight;
  }

  /** Begin an answer, a second one too. */
  begin() {
    this.answer = "";
    this.done = false;
    this.#body.replaceChildren();
    this.#note.replaceChildren();
    this.#note.removeAttribute("role");
    this.#item.classList.add("writing");
  }

  /** Add a piece of the answer; drawn with the next frame. */
  write(text) {
    this.answer += text;
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => this.#draw());
  }

  /** End the answer with a note of some elements. */
  end(...notes) {
    this.done = true;
    this.#item.classList.remove("writing");
    this.#draw(() => this.#note.replaceChildren(...notes));
  }

  /** End without an answer: what there was is dropped, and the note interrupts a screen reader. */
  fail(...notes) {
    this.answer = "";
    this.#note.setAttribute("role", "alert");
    this.end(...notes);
    this.done = false;
  }

  #draw(alongside = () => {}) {
    const box = this.#scroller;
    const followed = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_BOTTOM;
    this.#drawing = false;
    showProse(this.#body, this.answer);
    alongside();
    if (followed) box.scrollTop = box.scrollHeight;
  }
}

function article(speaker, className) {
  const box = document.createElement("article");
  box.className = className;
  const name = document.createElement("h3");
  name.className = className === "question" ? "visually-hidden" : "speaker";
  say(name, speaker);
  const body = document.createElement("div");
  body.className = "body";
  // The page's language need not be the conversation's.
  body.lang = "";
  box.append(name, body);
  return { box, body };
}
