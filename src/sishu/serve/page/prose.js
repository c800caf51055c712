/**
 * A model's answer as DOM: fenced code blocks, code spans, and text as it stands.
 * Everything goes through textContent, so no answer can become markup.
 */

const FENCE = /^[ \t]{0,3}(`{3,})[ \t]*([^`\s]*)[^`]*$/;

/** Replace what `element` shows with `text`. An unclosed fence runs to the end (it is still being written). */
export function showProse(element, text) {
  const blocks = [];
  let plain = [];
  const endPlain = () => {
    const joined = plain.join("\n").replace(/^\n+|\s+$/g, "");
    if (joined) blocks.push(paragraph(joined));
    plain = [];
  };
  const lines = text.split("\n");
  for (let i = 0; i < lines.length; i++) {
    const fence = FENCE.exec(lines[i]);
    if (!fence) {
      plain.push(lines[i]);
      continue;
    }
    endPlain();
    const code = [];
    const closes = (line) => line.trim().startsWith(fence[1]) && !line.trim().replaceAll("`", "");
    while (++i < lines.length && !closes(lines[i])) code.push(lines[i]);
    blocks.push(codeBlock(code.join("\n"), fence[2]));
  }
  endPlain();
  element.replaceChildren(...blocks);
}

function paragraph(text) {
  const element = document.createElement("div");
  element.className = "prose";
  for (const [index, part] of text.split(/(`[^`\n]+`)/).entries()) {
    if (index % 2 === 0) {
      if (part) element.append(part);
    } else {
      const code = document.createElement("code");
      code.textContent = part.slice(1, -1);
      element.append(code);
    }
  }
  return element;
}

function codeBlock(text, label) {
  const block = document.createElement("pre");
  // Reachable by keyboard, because a long line scrolls sideways.
  block.tabIndex = 0;
  if (label) block.dataset.label = label;
  const code = document.createElement("code");
  code.textContent = text;
  block.append(code);
  return block;
}
