/** Talking to the server: the list of models, and streamed answers. */

/** A failure with the server's code where it gave one ("unreachable" and "broken" are ours). */
export class Failure extends Error {
  constructor(code, message = "") {
    super(message);
    this.code = code;
  }
}

async function request(path, key, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("unreachable");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const { code, message } = body.error ?? {};
  throw new Failure(code ?? `http_${response.status}`, message ?? `HTTP ${response.status}`);
}

/** The ids of the models on offer, the default first. */
export async function listModels(key) {
  const response = await request("/v1/models", key);
  return (await response.json()).data.map((model) => model.id);
}

/**
 * Ask for an answer; `onText` gets each piece. Returns {finish, tokens}.
 * Aborting `signal` raises AbortError; anything else that goes wrong raises Failure.
 */
export async function ask({ model, messages, temperature, key, signal, onText }) {
  const response = await request("/v1/chat/completions", key, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({
      model,
      messages,
      temperature,
      stream: true,
      stream_options: { include_usage: true },
    }),
    signal,
  });
  const result = { finish: null, tokens: 0 };
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return result;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Failure(chunk.error.code ?? "failed", chunk.error.message);
    if (chunk.usage) result.tokens = chunk.usage.completion_tokens;
    const choice = chunk.choices[0];
    if (choice?.delta.content) onText(choice.delta.content);
    if (choice?.finish_reason) result.finish = choice.finish_reason;
  }
  throw new Failure("broken");
}

/** The data of each server-sent event in `stream`, wherever the network cut it. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const raw of lines) {
        const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
        if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        } else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw error instanceof Failure ? error : new Failure("broken");
  } finally {
    reader.cancel().catch(() => {});
  }
}
