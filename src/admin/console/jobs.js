// Resync and verify jobs: confirmation, start, progress and outcome. A job outlives the view that started it.

import { path, request } from "./api.js";
import { announce, h } from "./dom.js";
import { askFirst } from "./dialogs.js";
import { count, number } from "./format.js";
import { fault } from "./parts.js";

/** Milliseconds between two polls of a job. */
const POLL_INTERVAL = 500;
/** Number of ids that are listed before "more". */
const INITIAL_IDS = 20;

const QUESTIONS = {
  resync: (tenant) => ({
    title: "Resync the tenant?",
    text: [
      "This reads every user of ",
      { strong: tenant },
      " from the source in one snapshot and merges them into its target. Meanwhile the tenant is joining; its changes are queued and nothing is lost.",
    ],
    choice: "Allow mass deletes",
    hint: "Only if these users were really deleted: lets this merge mark more users as deleted than limits.max_deletes allows.",
    yes: "Resync",
    option: "allow_deletes",
  }),
  verify: (tenant) => ({
    title: "Verify the tenant?",
    text: [
      "This compares source and target of ",
      { strong: tenant },
      " user by user at one position. It reads the whole table once and connects to the target.",
    ],
    choice: "Repair differences",
    hint: "If anything differs, the tenant is resynced, which writes only the differences, and compared again.",
    yes: "Verify",
    option: "repair",
  }),
};

const NOUNS = { resync: "Resync", verify: "Verification" };

/** The last job of each tenant. */
const jobs = new Map();
const watchers = new Set();

const tell = (tenant) => watchers.forEach((watcher) => watcher(tenant));

/** Asks for confirmation, starts a job and follows it to its end. */
export async function begin(kind, tenant) {
  const { option, ...question } = QUESTIONS[kind](tenant);
  const answer = await askFirst(question);
  // Another job may have been adopted while the dialog was open.
  if (answer === null || jobs.get(tenant)?.state === "running") return;
  const set = (job) => {
    jobs.set(tenant, { tenant, kind, progress: null, result: null, error: null, chosen: answer.chosen, ...job });
    tell(tenant);
  };
  set({ state: "running" });
  await follow(kind, tenant, set, async () => {
    const body = { [option]: answer.chosen };
    return (await request(path(["tenants", tenant, kind]), { method: "POST", body })).job;
  });
}

/** Follows a running job that this page did not start: before a reload, or another client. */
export async function adopt(tenant) {
  if (jobs.get(tenant)?.state === "running") return;
  const [last] = (await request(path(["jobs"], { tenant, limit: 1 }))).jobs;
  if (last?.state !== "running" || jobs.get(tenant)?.state === "running") return;
  const set = (job) => {
    jobs.set(tenant, { chosen: false, ...job });
    tell(tenant);
  };
  set(last);
  await follow(last.kind, tenant, set, async () => last.job);
}

async function follow(kind, tenant, set, start) {
  try {
    const job = await start();
    for (;;) {
      const now = await request(path(["jobs", job]));
      set(now);
      if (now.state !== "running") break;
      await new Promise((resolve) => setTimeout(resolve, POLL_INTERVAL));
    }
  } catch (error) {
    set({ state: "failed", kind, tenant, error: { detail: error.message, remedy: error.remedy } });
  }
  const { state } = jobs.get(tenant);
  announce(`${NOUNS[kind]} of ${tenant} ${state === "done" ? "is done" : "failed"}`);
}

/** Card of the tenant's last job, updated until `close()`. Calls `busy(true)` while the job runs. */
export function jobCard(tenant, busy) {
  const element = h("div", { class: "job" });
  const draw = (changed) => {
    if (changed !== tenant) return;
    const job = jobs.get(tenant);
    busy(job?.state === "running");
    element.replaceChildren(...(job ? card(job) : []));
  };
  watchers.add(draw);
  draw(tenant);
  return { element, close: () => watchers.delete(draw) };
}

function card(job) {
  const noun = NOUNS[job.kind];
  if (job.state === "running") {
    const value = job.progress === null ? {} : { value: job.progress };
    const percent = job.progress === null ? "" : ` ${Math.floor(job.progress * 100)} %`;
    return [
      h(
        "div",
        { class: "running" },
        h("span", null, `${noun} is running${percent}`),
        h("progress", { max: 1, "aria-label": `${noun} of ${job.tenant}`, ...value }),
      ),
    ];
  }
  const dismiss = h(
    "button",
    { type: "button", class: "quiet small", onclick: () => (jobs.delete(job.tenant), tell(job.tenant)) },
    "Dismiss",
  );
  if (job.state === "failed") {
    const { detail, remedy } = job.error ?? { detail: "unknown error" };
    return [fault({ what: `${noun} failed: ${detail}`, remedy, more: dismiss })];
  }
  return [h("div", { class: "finished" }, ...outcome(job, noun), dismiss)];
}

function outcome({ tenant, result, chosen }, noun) {
  if (!result) return [h("p", null, `${noun} is done.`)];
  const { missing = 0, extra = 0, different = 0, rejected = 0, ids = [] } = result;
  const total = missing + extra + different;
  if (total + rejected === 0) return [h("p", { class: "good" }, `${noun} is done: source and target are equal.`)];
  if (total === 0) {
    const users = count(rejected, "user that the target rejects", "users that the target rejects");
    return [h("p", null, `${noun} is done: source and target are equal but for ${users}.`)];
  }
  const numbers = h(
    "dl",
    { class: "numbers" },
    ...Object.entries({ missing, extra, different, rejected }).map(([name, value]) =>
      h("div", null, h("dt", null, name), h("dd", null, number(value))),
    ),
  );
  const items = ids.map((id) =>
    h("li", null, h("a", { href: `#/tenants/${encodeURIComponent(tenant)}/users/${encodeURIComponent(id)}` }, id)),
  );
  const list = h("ul", { class: "ids", "aria-label": "Users that differ" }, ...items.slice(0, INITIAL_IDS));
  const more =
    items.length > INITIAL_IDS
      ? h("button", { type: "button", class: "quiet small" }, `${number(items.length - INITIAL_IDS)} more`)
      : null;
  more?.addEventListener("click", () => {
    list.append(...items.slice(INITIAL_IDS));
    more.remove();
  });
  const words = count(
    total,
    chosen ? "user still differs" : "user differs",
    chosen ? "users still differ" : "users differ",
  );
  return [h("p", null, `${noun} is done: ${words}.`), numbers, list, more].filter(Boolean);
}
