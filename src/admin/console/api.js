// The HTTP client: JSON requests, the token and the event stream.
// The token is in sessionStorage: other tabs cannot read it, and closing this tab removes it.

const TOKEN = "users-sync.token";

/** An error with the server's message if it sent one. */
export class ApiError extends Error {
  constructor(status, what, remedy = null, code = null) {
    super(what);
    this.status = status;
    this.remedy = remedy;
    this.code = code;
  }
}

let ask = async () => null;
let asking = null;
const watchers = new Set();

/** Sets the prompt for the token: `ask(wasWrong)` resolves to the token, or to null. */
export function askWith(prompt) {
  ask = prompt;
}

/** Calls `watcher(hasToken)` now and whenever the token is set or removed. */
export function onToken(watcher) {
  watchers.add(watcher);
  watcher(hasToken());
}

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;

export function forgetToken() {
  sessionStorage.removeItem(TOKEN);
  for (const watcher of watchers) watcher(false);
}

/** Prompts once for all requests that were rejected with the token `sent`. True if a different token is set now. */
async function unlock(sent) {
  if (sessionStorage.getItem(TOKEN) !== sent) return true;
  asking ??= ask(sent !== null).finally(() => {
    asking = null;
  });
  const token = await asking;
  if (token === null) return false;
  sessionStorage.setItem(TOKEN, token);
  for (const watcher of watchers) watcher(true);
  return true;
}

async function send(path, { method = "GET", body, signal, accept = "application/json" } = {}) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = { accept };
    if (token !== null) headers.authorization = `Bearer ${token}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    const options = { method, headers, signal, cache: "no-store", credentials: "omit", redirect: "error" };
    if (body !== undefined) options.body = JSON.stringify(body);
    let response;
    try {
      response = await fetch(path, options);
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError(0, "users-sync does not respond", "check that the process is running, and read its log");
    }
    if (response.status !== 401) return response;
    if (!(await unlock(token)))
      throw new ApiError(401, "a token is required", "use the value of admin.token in the configuration");
  }
}

async function failure(response) {
  const answer = await response.json().catch(() => null);
  const what = answer?.detail ?? `the server responded with status ${response.status}`;
  return new ApiError(response.status, what, answer?.remedy ?? null, answer?.code ?? null);
}

/** Keeps the server's digits of numbers that JavaScript would round (ids of 19 digits). */
function exact(_key, value, context) {
  if (typeof value !== "number" || context?.source === undefined || !JSON.rawJSON) return value;
  return String(value) === context.source ? value : JSON.rawJSON(context.source);
}

/** JSON of the response; `verbatim` keeps numbers that JavaScript would round. */
export async function request(path, options = {}) {
  const response = await send(path, options);
  if (!response.ok) throw await failure(response);
  return options.verbatim ? JSON.parse(await response.text(), exact) : response.json();
}

/** `api/tenants/a%2Fb/users`: encodes every part and omits query parameters without a value. */
export function path(parts, query = {}) {
  const pairs = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const search = new URLSearchParams(pairs).toString();
  return `api/${parts.map(encodeURIComponent).join("/")}${search ? `?${search}` : ""}`;
}

/** Reads events until the server or `signal` ends the stream. Calls `opened()` once, `heard()` for every chunk (also
 * keep-alives), and `event(name, data)`. */
export async function events(where, { signal, opened, heard, event }) {
  const response = await send(where, { signal, accept: "text/event-stream" });
  if (!response.ok) throw await failure(response);
  opened();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const field = (name) =>
        lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trimStart());
      const data = field("data").join("\n");
      if (data) event(field("event")[0] ?? "message", JSON.parse(data));
    }
  }
}
