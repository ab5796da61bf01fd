// What is known of the service, kept up to date by the event stream: status, tenants, and the last minutes of their lag.
// Views subscribe; nothing here knows an element.

import { ApiError, events, path, request } from "./api.js";

/** So many tenants are asked for at once. */
const PAGE = 500;
/** What a plot shows: sixty samples, five seconds apart, as the server keeps them. */
export const SAMPLE = 5_000;
export const SAMPLES = 60;
/** How long to wait before connecting again; each time twice as long. */
const RETRY = [1_000, 15_000];
/** A stream that says nothing for so long, not even that it lives, is taken for dead. */
const SILENCE = 40_000;
/** How many histories are fetched at a time. */
const LANES = 4;

export const live = {
  status: null,
  /** By name. A tenant also has `since`: when its state began, by this machine's clock. */
  tenants: new Map(),
  /** Whether every tenant has been read once. */
  complete: false,
  /** `connecting`, `live` or `lost`. */
  connection: "connecting",
  /** Why nothing could be read. */
  error: null,
};

const subscribers = new Set();
const histories = new Map();
/** Names that the stream spoke of while the list was being read: what it said is newer. */
let fresher = null;
let refreshing = null;

/**
 * `subscriber({status, tenants, connection, users})` with what changed; `tenants` is a set of names, the `ids` of users are null
 * after a time in which nothing was heard. Returns the way out.
 */
export function subscribe(subscriber) {
  subscribers.add(subscriber);
  return () => subscribers.delete(subscriber);
}

function tell(change) {
  for (const subscriber of [...subscribers]) subscriber(change);
}

function connection(state, error = null) {
  if (live.connection === state && live.error === error) return;
  live.connection = state;
  live.error = error;
  tell({ connection: state });
}

function learn(tenant) {
  const since = tenant.since_seconds === null ? null : Date.now() - tenant.since_seconds * 1000;
  live.tenants.set(tenant.tenant, { ...tenant, since });
  const samples = histories.get(tenant.tenant);
  if (Array.isArray(samples)) sample(samples, tenant);
}

function sample(samples, { lag_bytes, lag_seconds }) {
  const at = Date.now();
  const last = samples.at(-1);
  if (last && at - last.at < SAMPLE) {
    // The worst of these five seconds.
    last.lag_bytes = Math.max(last.lag_bytes ?? 0, lag_bytes ?? 0);
    last.lag_seconds = lag_seconds === null ? null : Math.max(last.lag_seconds ?? 0, lag_seconds);
  } else samples.push({ at, lag_bytes, lag_seconds });
  if (samples.length > SAMPLES + 1) samples.shift();
}

/** Reads everything anew; together with whoever asks at the same time. */
export function refresh() {
  refreshing ??= read().finally(() => {
    refreshing = null;
    fresher = null;
  });
  return refreshing;
}

async function read() {
  fresher = new Set();
  const status = request("api/status").then((answer) => {
    live.status = answer;
    tell({ status: true });
  });
  const seen = new Set();
  let cursor = null;
  do {
    const page = await request(path(["tenants"], { limit: PAGE, cursor }));
    for (const tenant of page.tenants) {
      seen.add(tenant.tenant);
      if (!fresher.has(tenant.tenant)) learn(tenant);
    }
    cursor = page.next;
    live.complete = cursor === null;
    tell({ tenants: new Set(page.tenants.map((tenant) => tenant.tenant)) });
  } while (cursor !== null);
  const gone = [...live.tenants.keys()].filter((name) => !seen.has(name) && !fresher.has(name));
  for (const name of gone) {
    live.tenants.delete(name);
    histories.delete(name);
  }
  if (gone.length) tell({ tenants: new Set(gone) });
  await status;
}

/** A tenant's last minutes, or null while they are not here; `wanted` asks for them. */
export function history(name, wanted = false) {
  const samples = histories.get(name);
  if (Array.isArray(samples)) return samples;
  if (wanted && samples === undefined) {
    histories.set(name, "waiting");
    queue.push(name);
    drain();
  }
  return null;
}

const queue = [];
let running = 0;

function drain() {
  while (running < LANES && queue.length) {
    const name = queue.pop();
    running += 1;
    request(path(["tenants", name]))
      .then((tenant) => {
        histories.set(name, tenant.history.slice(-SAMPLES));
        learn(withoutHistory(tenant));
        tell({ tenants: new Set([name]) });
      })
      .catch(() => histories.delete(name))
      .finally(() => {
        running -= 1;
        drain();
      });
  }
}

function withoutHistory({ history: _, ...tenant }) {
  return tenant;
}

/** Whose users' changes are wanted as well; null for nobody's. */
let watched = null;
let serial = 0;
let current = null;
let wasOpen = false;
let delay = RETRY[0];
let timer = null;

export function watchUsers(name) {
  if (watched === name) return;
  watched = name;
  if (current) connect();
}

/** The new stream is there before the old one goes, so that nothing is missed when another view is opened. */
async function connect() {
  const mine = ++serial;
  const aborter = new AbortController();
  const hadGap = current === null;
  clearTimeout(timer);
  let watchdog;
  const heard = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => aborter.abort(), SILENCE);
  };
  const before = current;
  current = aborter;
  let error = null;
  try {
    heard();
    await events(path(["events"], { users: watched }), {
      signal: aborter.signal,
      opened() {
        before?.abort();
        delay = RETRY[0];
        connection("live");
        if (hadGap) refresh().catch((problem) => connection("lost", problem));
        // Nobody knows which users came meanwhile.
        if (hadGap && wasOpen) tell({ users: { tenant: watched, ids: null } });
        wasOpen = true;
      },
      heard,
      event(name, data) {
        if (!aborter.signal.aborted) receive(name, data);
      },
    });
  } catch (problem) {
    error = problem instanceof ApiError ? problem : new ApiError(0, "the connection to users-sync is lost");
  }
  clearTimeout(watchdog);
  before?.abort();
  if (mine !== serial) return;
  current = null;
  if (document.hidden) return;
  if (error?.status === 404 && watched !== null) {
    // Whose users are wanted is in no configuration; the rest goes on.
    watched = null;
    return connect();
  }
  connection("lost", error);
  // Without a token there is nothing to try: a person asks again.
  if (error?.status === 401) return;
  timer = setTimeout(connect, delay);
  delay = Math.min(delay * 2, RETRY[1]);
}

function receive(name, data) {
  if (name === "tenants") {
    for (const tenant of data.tenants) {
      fresher?.add(tenant.tenant);
      learn(tenant);
    }
    tell({ tenants: new Set(data.tenants.map((tenant) => tenant.tenant)) });
  } else if (name === "status") {
    live.status = data;
    tell({ status: true });
    const total = Object.values(data.tenants).reduce((sum, count) => sum + count, 0);
    // Somebody has changed the configuration.
    if (live.complete && total !== live.tenants.size) refresh().catch(() => {});
  } else if (name === "users") tell({ users: data });
}

/** Tries at once instead of waiting any longer. */
export function retry() {
  delay = RETRY[0];
  connection("connecting");
  connect();
}

/** Connects, and keeps connected while the page is looked at: a browser has only six connections to a server. */
export function start() {
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      serial += 1;
      clearTimeout(timer);
      current?.abort();
      current = null;
    } else if (current === null) retry();
  });
  connect();
}
