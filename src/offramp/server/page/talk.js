/* Talk to the server: JSON, server-sent events, and every failure as a sentence.
   In:  a path and a body. Out: JSON, or an async iterator of chunks; throws Trouble only.
   Law: what the server says is text and stays text; the key goes into a header, never into a link. */

const KEY = "offramp.key";
let key = "";
try {
  key = sessionStorage.getItem(KEY) ?? "";
} catch {
  // storage is switched off: the key lasts as long as the page
}

/** Use this API key from now on, in this tab. */
export function useKey(value) {
  key = value.trim();
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // as above
  }
}

/** Anything that went wrong, in words for the reader. */
export class Trouble extends Error {
  /** @param {string} words @param {{status?: number, wait?: number}} facts */
  constructor(words, { status = 0, wait = 0 } = {}) {
    super(words);
    this.status = status;
    this.wait = wait;
  }
}

const GONE =
  "The server does not answer. Is “offramp serve” still running? " +
  "Nothing on this page is lost; try again when it is back.";

const sentence = (text) => (/[.!?…]$/.test(text) ? text : `${text}.`);

/** Say what a refused request means. */
export function words(status, said) {
  const reason = said ? ` It says: ${sentence(said)}` : "";
  if (status === 401) return `The server wants an API key.${reason}`;
  if (status === 404) return `The server does not know this.${reason}`;
  if (status === 413) return `This is longer than the server takes; shorten the prompt.${reason}`;
  if (status === 429) return "The server is busy and takes no more texts just now.";
  if (status === 503) return `The server is closing or not ready yet.${reason}`;
  if (status >= 500) return `Something failed inside the server.${reason}`;
  return `The server did not accept this.${reason}`;
}

async function ask(path, { body, signal } = {}) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const init = { headers, signal, body: body && JSON.stringify(body), method: body ? "POST" : "GET" };
  let answer;
  try {
    answer = await fetch(path, init);
  } catch (failure) {
    if (failure.name === "AbortError") throw failure;
    throw new Trouble(GONE);
  }
  if (answer.ok) return answer;
  const said = await answer.json().then((json) => json?.error?.message, () => undefined);
  throw new Trouble(words(answer.status, said && String(said)), {
    status: answer.status,
    wait: answer.status === 429 ? Number(answer.headers.get("Retry-After")) || 1 : 0,
  });
}

/** Ask once: GET without a body, POST with one. */
export async function talk(path, options) {
  const answer = await ask(path, options);
  try {
    return await answer.json();
  } catch (failure) {
    if (failure.name === "AbortError") throw failure;
    throw new Trouble("The server's answer broke off before its end.");
  }
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split(/\r?\n/);
      rest = parts.pop();
      yield* parts;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Read a stream chunk by chunk, up to its [DONE]. */
export async function* stream(path, options) {
  const answer = await ask(path, options);
  try {
    for await (const line of lines(answer.body)) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) {
        throw new Trouble(`The server gave this text up. It says: ${sentence(String(chunk.error.message))}`);
      }
      yield chunk;
    }
  } catch (failure) {
    if (failure.name === "AbortError" || failure instanceof Trouble) throw failure;
    throw new Trouble("The connection broke while the text was being written.");
  }
  throw new Trouble("The server stopped before the text was finished.");
}
