/** Every word of the page, in both languages, and the switch between them. */

const WORDS = {
  en: {
    skip: "Skip to the message field",
    model: "Model",
    language: "Language",
    newChat: "New chat",
    conversation: "Conversation",
    welcomeTitle: "What shall we study?",
    welcomeText: "You are talking to a small model that was raised on this machine. It can be wrong.",
    suggestions: ["What can you do?", "Tell me a short story.", "What is a list in Python?"],
    yourMessage: "Your message",
    placeholder: "Write a message",
    send: "Send",
    stop: "Stop",
    settings: "Settings",
    temperature: "Temperature",
    temperatureHelp: "0 always takes the likeliest word; higher is freer.",
    key: "API key",
    keyHelp: "This server asks for its key. It is kept until you close this tab.",
    keys: "Enter sends, Shift+Enter starts a new line, Esc stops.",
    you: "You",
    assistant: "Assistant",
    thinking: "Writing an answer",
    stopped: "Stopped.",
    cutShort: "Cut off: the answer reached its length limit.",
    silent: "The model ended its answer without a word.",
    tokens: (count, seconds) => `${count} ${count === 1 ? "token" : "tokens"} in ${seconds} s`,
    retry: "Try again",
    cleared: "New chat.",
    unreachable: "The server cannot be reached. Is it still running?",
    broken: "The connection broke before the answer was complete.",
    needsKey: "This server needs its key: enter it under Settings.",
    tooLong: "This conversation no longer fits the model's context. Start a new chat.",
    noModels: "The server offers no model.",
    badTemperature: "The temperature must be a number from 0 to 2.",
    refused: (message) => `The server refused: ${message}`,
  },
  zh: {
    skip: "跳到输入框",
    model: "模型",
    language: "语言",
    newChat: "新对话",
    conversation: "对话",
    welcomeTitle: "今天学点什么？",
    welcomeText: "和你对话的是在这台机器上从头教出来的小模型，它可能会说错。",
    suggestions: ["你会做什么？", "讲一个小故事。", "Python 里的列表是什么？"],
    yourMessage: "你的消息",
    placeholder: "写点什么",
    send: "发送",
    stop: "停止",
    settings: "设置",
    temperature: "温度",
    temperatureHelp: "0 总取最可能的词；越高越自由。",
    key: "API 密钥",
    keyHelp: "此服务器需要密钥；密钥只保留到关闭本标签页为止。",
    keys: "Enter 发送，Shift+Enter 换行，Esc 停止。",
    you: "你",
    assistant: "助手",
    thinking: "正在回答",
    stopped: "已停止。",
    cutShort: "回答达到长度上限，被截断了。",
    silent: "模型一个字也没说就结束了回答。",
    tokens: (count, seconds) => `${count} 个词元，用时 ${seconds} 秒`,
    retry: "重试",
    cleared: "已开始新对话。",
    unreachable: "连不上服务器。它还在运行吗？",
    broken: "回答还没完，连接就断了。",
    needsKey: "此服务器需要密钥：请在“设置”中填写。",
    tooLong: "这段对话已超出模型的上下文长度。请开始新对话。",
    noModels: "服务器没有提供任何模型。",
    badTemperature: "温度须是 0 到 2 之间的数。",
    refused: (message) => `服务器拒绝了请求：${message}`,
  },
};

const TAGS = { en: "en", zh: "zh-Hans" };
const STORED = "sishu.language";

let language = firstLanguage();

/** The remembered language, else the browser's first that we speak, else English. */
function firstLanguage() {
  try {
    const stored = localStorage.getItem(STORED);
    if (stored in WORDS) return stored;
  } catch {
    // Storage may be forbidden; the browser's language serves.
  }
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

/** The text called `name` in the current language; texts with gaps take their fillings. */
export function words(name, ...fillings) {
  const text = WORDS[language][name];
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
