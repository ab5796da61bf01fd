// The page: routing, keyboard shortcuts and the connection badge. The address after # holds the whole view state, so that
// back, forward and copied addresses work.

import { forgetToken, askWith, onToken } from "./api.js";
import { askToken, isOpen, showKeys } from "./dialogs.js";
import { announce, attribute, h, text } from "./dom.js";
import { live, retry, start, subscribe, watchUsers } from "./live.js";
import { empty, failed } from "./parts.js";
import { referenceView } from "./reference.js";
import { summary } from "./summary.js";
import { tenantView } from "./tenant.js";
import { tenantsView } from "./tenants.js";
import { timelineView } from "./timeline.js";
import { usersView } from "./users.js";

const view = document.getElementById("view");
let shown = null;

/** Parses `#/tenants/acme/users/7?search=ann` into path parts and query. */
function address() {
  const [before, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = before
    .split("/")
    .filter(Boolean)
    .map((part) => {
      try {
        return decodeURIComponent(part);
      } catch {
        return part;
      }
    });
  return { parts, query: new URLSearchParams(query) };
}

/** Key and constructor of an address's view. A view stays open while its key does; it receives the new address. */
function route({ parts }) {
  const [first, tenant, second] = parts;
  if (first === undefined) return ["tenants", () => tenantsView()];
  if (first === "tenants" && tenant !== undefined && second === undefined)
    return [`tenant ${tenant}`, () => tenantView(tenant)];
  if (first === "tenants" && second === "users" && parts.length <= 4)
    return [`users ${tenant}`, () => usersView(tenant)];
  if (first === "events" && tenant === undefined) return ["events", () => timelineView()];
  if (first === "api" && tenant === undefined) return ["api", () => referenceView()];
  return [
    "nothing",
    () => ({
      element: h(
        "div",
        null,
        h("h1", { class: "unseen" }, "Not found"),
        empty("No such page", h("a", { href: "#/" }, "All tenants")),
      ),
      title: "Not found",
    }),
  ];
}

function show() {
  const now = address();
  const [key, make] = route(now);
  if (shown?.key !== key) {
    const isFirst = shown === null;
    shown?.view.close?.();
    // Watch before the view reads, so that no change between the two is missed.
    watchUsers(key.startsWith("users ") ? now.parts[1] : null);
    document.body.dataset.view = key.split(" ")[0];
    const before = shown?.key;
    shown = { key, view: make() };
    view.replaceChildren(shown.view.element);
    window.scrollTo(0, 0);
    shown.view.change?.(now);
    if (!isFirst && !isOpen()) (shown.view.focus?.(before) ?? view).focus({ preventScroll: true });
  } else shown.view.change?.(now);
  title();
}

function title() {
  const parked = live.status?.tenants.parked ?? 0;
  const name = shown.view.title ? `${shown.view.title} · users-sync` : "users-sync";
  document.title = parked ? `(${parked} parked) ${name}` : name;
}

function connected() {
  const badge = document.getElementById("connection");
  attribute(badge, "data-state", live.connection);
  text(badge, { connecting: "connecting", live: "live", lost: "not connected" }[live.connection]);
  const banner = document.getElementById("lost");
  if (live.connection !== "lost") return banner?.remove();
  const error = live.error ?? { message: "users-sync does not respond", remedy: null };
  const box = h("div", { id: "lost" }, failed(error, retry));
  if (banner) {
    if (banner.textContent !== box.textContent) banner.replaceWith(box);
  } else view.before(box);
}

/** The visible rows that the arrow keys move through. */
const rows = () => [...view.querySelectorAll("a.row")].filter((row) => row.offsetParent !== null);

function walk(step) {
  const all = rows();
  if (!all.length) return false;
  const at = all.indexOf(document.activeElement?.closest("tbody, tr")?.querySelector("a.row") ?? null);
  const next = { first: 0, last: all.length - 1 }[step] ?? (at < 0 ? (step > 0 ? 0 : all.length - 1) : at + step);
  const row = all[Math.min(all.length - 1, Math.max(0, next))];
  row.focus();
  row.scrollIntoView({ block: "nearest" });
  return true;
}

const STEPS = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, Home: "first", End: "last" };

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || isOpen()) return;
  const writing = event.target.closest("input, textarea, select");
  const search = view.querySelector("input.search");
  let done = true;
  if (event.key === "Escape") {
    if (writing === search && search?.value) {
      search.value = "";
      search.dispatchEvent(new Event("input"));
    } else if (writing) writing.blur();
    else done = shown.view.escape?.() ?? false;
  } else if (writing) {
    done = event.key === "ArrowDown" && writing === search && walk("first");
  } else if (event.key === "/" && search) {
    search.focus();
    search.select();
  } else if (event.key === "?") showKeys();
  else if (event.key === "u") {
    const users =
      document.activeElement?.closest("tbody")?.querySelector("a.users") ?? view.querySelector("a.tab[href$='/users']");
    if (users) location.hash = users.getAttribute("href");
    else done = false;
  } else if (event.key in STEPS && !event.shiftKey && !event.target.closest("pre, [role=region]"))
    done = walk(STEPS[event.key]);
  else done = false;
  if (done) event.preventDefault();
}

askWith(askToken);
const forget = document.getElementById("forget");
onToken((there) => {
  forget.hidden = !there;
});
forget.addEventListener("click", () => {
  forgetToken();
  announce("Token removed");
  location.reload();
});
document.getElementById("keys").addEventListener("click", showKeys);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  view.focus();
});
document.addEventListener("keydown", key);
window.addEventListener("hashchange", show);
subscribe((change) => {
  if (change.connection) connected();
  if (change.status) title();
});
summary(document.getElementById("summary"));
connected();
show();
start();
