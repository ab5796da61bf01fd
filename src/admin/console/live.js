// The client's copy of the service's status: process, tenants and their recent lag, kept up to date by the event stream.
// Views subscribe to changes. Does not touch the DOM.

import { ApiError, events, path, request } from "./api.js";

/** Tenants per request. */
const PAGE = 500;
/** A plot shows sixty samples, five seconds apart, like the server's history. */
export const SAMPLE = 5_000;
export const SAMPLES = 60;
/** Minimum and maximum delay before reconnecting; it doubles each time. */
const RETRY_DELAY = [1_000, 15_000];
/** A stream without events or keep-alives for this long is considered dead. */
const SILENCE_TIMEOUT = 40_000;
/** Histories that are fetched concurrently. */
const CONCURRENT_HISTORIES = 4;

export const live = {
  status: null,
  /** By id. Each tenant also has `since`: when its state began, by this machine's clock. */
  tenants: new Map(),
  /** True once every tenant has been read. */
  complete: false,
  /** `connecting`, `live` or `lost`. */
  connection: "connecting",
  /** Why the connection was lost. */
  error: null,
};

const subscribers = new Set();
const histories = new Map();
/** Tenants that the stream reported while the list was being read: the stream's data is newer. */
let fresher = null;
let refreshing = null;

/**
 * Calls `subscriber({status, tenants, connection, users})` with what changed. `tenants` is a set of ids; `users.ids` is null
 * after a gap in the stream. Returns the unsubscribe function.
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
    // Keep the maximum of these five seconds.
    last.lag_bytes = Math.max(last.lag_bytes ?? 0, lag_bytes ?? 0);
    last.lag_seconds = lag_seconds === null ? null : Math.max(last.lag_seconds ?? 0, lag_seconds);
  } else samples.push({ at, lag_bytes, lag_seconds });
  if (samples.length > SAMPLES + 1) samples.shift();
}

/** Reads everything again. Concurrent calls share one read. */
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

/** The tenant's lag history, or null until it has been read; `wanted` requests it. */
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
  while (running < CONCURRENT_HISTORIES && queue.length) {
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

/** The tenant whose user changes are streamed as well, or null. */
let watched = null;
let serial = 0;
let current = null;
let wasOpen = false;
let delay = RETRY_DELAY[0];
let timer = null;

export function watchUsers(name) {
  if (watched === name) return;
  watched = name;
  if (current) connect();
}

/** Opens a new stream before closing the old one, so that no event is missed when the view changes. */
async function connect() {
  const mine = ++serial;
  const aborter = new AbortController();
  const hadGap = current === null;
  clearTimeout(timer);
  let watchdog;
  const heard = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => aborter.abort(), SILENCE_TIMEOUT);
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
        delay = RETRY_DELAY[0];
        connection("live");
        if (hadGap) refresh().catch((problem) => connection("lost", problem));
        // Users that changed during the gap are unknown.
        if (hadGap && wasOpen) tell({ users: { tenant: watched, ids: null } });
        wasOpen = true;
      },
      heard,
      event(name, data) {
        if (!aborter.signal.aborted) receive(name, data);
      },
    });
  } catch (problem) {
    error = problem instanceof ApiError ? problem : new ApiError(0, "lost the connection to users-sync");
  }
  clearTimeout(watchdog);
  before?.abort();
  if (mine !== serial) return;
  current = null;
  if (document.hidden) return;
  if (error?.status === 404 && watched !== null) {
    // The watched tenant is not configured: continue without its users.
    watched = null;
    return connect();
  }
  connection("lost", error);
  // Retrying without a token is pointless: wait until it is entered.
  if (error?.status === 401) return;
  timer = setTimeout(connect, delay);
  delay = Math.min(delay * 2, RETRY_DELAY[1]);
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
    // The configuration has changed.
    if (live.complete && total !== live.tenants.size) refresh().catch(() => {});
  } else if (name === "users") tell({ users: data });
}

/** Reconnects immediately. */
export function retry() {
  delay = RETRY_DELAY[0];
  connection("connecting");
  connect();
}

/** Connects, and stays connected while the page is visible: a browser allows only six connections to a server. */
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
