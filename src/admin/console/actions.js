// Pause, resume, and the retry of rejected users: a dialog that says what will happen, then one request.

import { path, request } from "./api.js";
import { announce } from "./dom.js";
import { askFirst } from "./dialogs.js";

const ACTIONS = {
  pause: {
    parts: (tenant) => ["tenants", tenant, "pause"],
    body: ({ words }) => ({ reason: words }),
    done: (tenant) => `${tenant} is paused`,
    question: (tenant) => ({
      title: "Pause the tenant?",
      text: [
        "Nothing is written to the target of ",
        { strong: tenant },
        " until it is resumed, and its connection is closed. Its changes wait, up to limits.tenant_memory and limits.source_wal; past them it is parked, and resynced once it is resumed.",
      ],
      hint: "The reason is shown to other operators.",
      yes: "Pause",
      asksWhy: true,
    }),
  },
  resume: {
    parts: (tenant) => ["tenants", tenant, "resume"],
    body: () => ({}),
    done: (tenant) => `${tenant} is resumed`,
    question: (tenant) => ({
      title: "Resume the tenant?",
      text: [
        { strong: tenant },
        " continues where it was: the changes that wait are written to its target. If it was parked, it is tried at once, and resynced.",
      ],
      yes: "Resume",
    }),
  },
  retry: {
    parts: (tenant) => ["tenants", tenant, "rejected", "retry"],
    body: () => ({}),
    done: (tenant) => `The rejected users of ${tenant} were tried again`,
    question: (tenant) => ({
      title: "Try the rejected users again?",
      text: [
        "The rows of all rejected users of ",
        { strong: tenant },
        " are read from the source and written to its target, between the changes of the stream. Those that it still refuses stay in the list.",
      ],
      yes: "Try again",
    }),
  },
};

/** Asks, acts, and announces the outcome. True if it was done; an error is thrown to the caller. */
export async function act(kind, tenant) {
  const action = ACTIONS[kind];
  const answer = await askFirst(action.question(tenant));
  if (answer === null) return false;
  await request(path(action.parts(tenant)), { method: "POST", body: action.body(answer) });
  announce(action.done(tenant));
  return true;
}
