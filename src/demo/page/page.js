// The page of `users-sync demo --stay`: the auth store's table beside the targets', and the visitor's own changes. What
// people type is inserted as text, never as markup.

import { arrange, attribute, h, text } from "../assets/dom.js";

/** Milliseconds between two requests for both tables. */
const POLL = 300;

const byId = (id) => document.getElementById(id);

/** Sends a request; with a body, one that changes something. */
async function ask(path, body) {
  const options = { cache: "no-store", credentials: "omit", redirect: "error" };
  if (body !== undefined) {
    options.method = "POST";
    options.headers = { "content-type": "application/json" };
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(`demo/${path}`, options);
  } catch {
    throw new Error("The demo does not respond: check that it is still running.");
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new Error(answer?.detail ?? `The server responded with status ${response.status}.`);
  return answer;
}

/** The time of day of a timestamp of PostgreSQL. */
const clock = (timestamp) => timestamp?.match(/\d+:\d+:\d+/)?.[0] ?? "";

const brief = (id) => id.slice(0, 8);

const PEOPLE = [
  { kind: "id mono", show: (person) => brief(person.id), whole: (person) => person.id },
  { kind: "tenant", show: (person) => person.organization },
  { kind: "name", show: (person) => person.first_name },
  { kind: "name", show: (person) => person.last_name },
  { kind: "email", show: (person) => person.email },
];

const ROWS = [
  { kind: "tenant", show: (row) => row.tenant },
  { kind: "id mono", show: (row) => brief(row.id), whole: (row) => row.id },
  { kind: "name", show: (row) => row.name },
  { kind: "email", show: (row) => row.email },
  { kind: "time", show: (row) => clock(row.created_at), whole: (row) => row.created_at },
  { kind: "time", show: (row) => clock(row.updated_at), whole: (row) => row.updated_at },
  { kind: "time", show: (row) => clock(row.deleted_at), whole: (row) => row.deleted_at },
  { kind: "json", show: (row) => row.raw_json },
];

/** A table whose rows are kept from one answer to the next. Calls `finish(row, entry)` for each new row. */
function table(body, columns, finish) {
  let kept = null;
  return (entries) => {
    const before = kept;
    kept = new Map();
    for (const entry of entries) {
      const known = before?.get(entry.id);
      const row = known?.row ?? h("tr", {}, ...columns.map(({ kind }) => h("td", { class: kind })));
      const current = { row, entry };
      if (!known) finish?.(row, () => kept.get(entry.id)?.entry ?? entry);
      const is_changed = JSON.stringify(known?.entry) !== JSON.stringify(entry);
      if (is_changed) {
        columns.forEach(({ show, whole = show }, place) => {
          text(row.children[place], show(entry) ?? "");
          attribute(row.children[place], "title", whole(entry) || null);
        });
        row.classList.toggle("gone", Boolean(entry.deleted_at));
      }
      // The first answer is not news.
      if (is_changed && before) flash(row);
      kept.set(entry.id, current);
    }
    arrange(body, [...kept.values()].map(({ row }) => row));
  };
}

/** Starts the animation again, also while it runs. */
function flash(row) {
  row.classList.remove("fresh");
  void row.offsetWidth;
  row.classList.add("fresh");
}

const nameOf = (person) => [person.first_name, person.last_name].filter(Boolean).join(" ");

const showPeople = table(byId("people"), PEOPLE, (row, current) => {
  const button = (label, action) =>
    h("button", { type: "button", class: "small", onclick: () => action(current()) }, label);
  row.append(h("td", { class: "go" }, button("Rename", rename), button("Delete", remove)));
});
const showRows = table(byId("rows"), ROWS);

function show(state) {
  showPeople(state.people);
  showRows(state.rows);
  text(byId("people-total"), String(state.people_total));
  text(byId("rows-total"), String(state.rows_total));
}

function connection(state, words) {
  attribute(byId("connection"), "data-state", state);
  text(byId("connection"), words);
}

let asked = 0;
let shown = 0;

async function refresh() {
  asked += 1;
  const number = asked;
  try {
    const state = await ask("state");
    connection("live", "live");
    // An earlier question may be answered later.
    if (number < shown) return;
    shown = number;
    show(state);
  } catch (error) {
    connection("lost", error.message);
  }
}

async function poll() {
  if (!document.hidden) await refresh();
  setTimeout(poll, POLL);
}

function say(kind, words) {
  attribute(byId("last"), "data-kind", kind);
  text(byId("last"), words);
}

/** Makes a change and shows how long it took to be visible. True if it was committed. */
async function change(path, body, what) {
  say("waiting", `${what}: waiting for the target`);
  try {
    const { organization, visible_ms } = await ask(path, body);
    if (visible_ms === null) say("refused", `${what}: committed, but not yet visible in ${organization}. Is it paused in the console?`);
    else say("done", `${what}: visible in ${organization} after ${visible_ms.toFixed(1)} ms`);
    return true;
  } catch (error) {
    say("refused", `${what}: ${error.message}`);
    return false;
  } finally {
    await refresh();
  }
}

const remove = (person) => change("delete", { id: person.id }, `${nameOf(person)} deleted`);

const dialog = byId("rename");
const renaming = dialog.querySelector("form");
let renamed = null;

function rename(person) {
  renamed = person;
  renaming.elements.first_name.value = person.first_name ?? "";
  renaming.elements.last_name.value = person.last_name ?? "";
  dialog.showModal();
}

dialog.querySelector("[data-cancel]").addEventListener("click", () => dialog.close());
renaming.addEventListener("submit", () => {
  const names = Object.fromEntries(new FormData(renaming));
  change("rename", { id: renamed.id, ...names }, `${nameOf(renamed)} renamed to ${nameOf(names)}`);
});

byId("sign-up").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const body = Object.fromEntries(new FormData(form));
  if (!(await change("sign-up", body, `${nameOf(body)} signed up`))) return;
  // What was typed since stays.
  for (const name of ["first_name", "last_name"]) if (form.elements[name].value === body[name]) form.elements[name].value = "";
});

poll();
