// The one way to the server: JSON over fetch, the token, and events as they stream in.
// The token is in sessionStorage: no other tab has it, and it is gone with this one.

const TOKEN = "users-sync.token";

/** What went wrong, in the server's words where it has some. */
export class ApiError extends Error {
  constructor(status, what, remedy = null) {
    super(what);
    this.status = status;
    this.remedy = remedy;
  }
}

let ask = async () => null;
let asking = null;
const watchers = new Set();

/** How a person is asked for the token: `ask(wasWrong)` gives it, or null. */
export function askWith(prompt) {
  ask = prompt;
}

/** Called whenever there is a token, or none any more. */
export function onToken(watcher) {
  watchers.add(watcher);
  watcher(hasToken());
}

export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;

export function forgetToken() {
  sessionStorage.removeItem(TOKEN);
  for (const watcher of watchers) watcher(false);
}

/** Asks once, however many requests were refused with the token `sent`; true where there is another one now. */
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
      throw new ApiError(0, "users-sync does not answer", "look whether the process runs, and what its log says");
    }
    if (response.status !== 401) return response;
    if (!(await unlock(token)))
      throw new ApiError(401, "the token is needed", "it stands in the configuration: admin.token");
  }
}

async function failure(response) {
  const answer = await response.json().catch(() => null);
  const what = answer?.error?.what ?? `the server answers with status ${response.status}`;
  return new ApiError(response.status, what, answer?.error?.remedy ?? null);
}

/** Numbers stay as the server wrote them, where JavaScript's would be another number (ids of 19 digits). */
function exact(_key, value, context) {
  if (typeof value !== "number" || context?.source === undefined || !JSON.rawJSON) return value;
  return String(value) === context.source ? value : JSON.rawJSON(context.source);
}

/** An answer's JSON; `verbatim` keeps numbers that do not fit. */
export async function request(path, options = {}) {
  const response = await send(path, options);
  if (!response.ok) throw await failure(response);
  return options.verbatim ? JSON.parse(await response.text(), exact) : response.json();
}

/** `api/tenants/a%2Fb/users`: every part encoded, and the query's names without a value left out. */
export function path(parts, query = {}) {
  const pairs = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const search = new URLSearchParams(pairs).toString();
  return `api/${parts.map(encodeURIComponent).join("/")}${search ? `?${search}` : ""}`;
}

/** Reads events until the server or `signal` ends them: `opened()` once it answers, `heard()` for every sign of life, and
 * `event(name, data)`. */
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
