/** A page in two languages: which one is spoken, and the switch between them. */

const TAGS = { en: "en", zh: "zh-Hans" };
const STORED = "sishu.language";

let dictionary = { en: {}, zh: {} };
let language = firstLanguage();

/** Take up the words of a page: an object of names and texts for each language. */
export function learn(words) {
  dictionary = words;
}

/** The remembered language, else the browser's first that we speak, else English. */
function firstLanguage() {
  try {
    const stored = localStorage.getItem(STORED);
    if (stored in TAGS) return stored;
  } catch {
    // Storage may be forbidden; the browser's language serves.
  }
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

/** The text called `name` in the current language; texts with gaps take their fillings. */
export function words(name, ...fillings) {
  const text = dictionary[language][name];
  return typeof text === "function" ? text(...fillings) : text;
}

/** A live text: an element whose words follow the language. */
export function say(element, name, ...fillings) {
  element.dataset.words = name;
  element.dataset.fillings = JSON.stringify(fillings);
  element.textContent = words(name, ...fillings);
}

/** Write every text of the page in the current language. */
export function writePage() {
  document.documentElement.lang = TAGS[language];
  for (const element of document.querySelectorAll("[data-words]")) {
    const fillings = JSON.parse(element.dataset.fillings ?? "[]");
    element.textContent = words(element.dataset.words, ...fillings);
  }
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", words(element.dataset.label));
  }
  for (const element of document.querySelectorAll("[data-placeholder]")) {
    element.placeholder = words(element.dataset.placeholder);
  }
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === language));
  }
}

/** Switch to `chosen` and remember it. */
export function speak(chosen) {
  language = chosen;
  try {
    localStorage.setItem(STORED, chosen);
  } catch {
    // Not remembered, but switched.
  }
  writePage();
}
