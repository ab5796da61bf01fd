// The timeline of events, of all tenants as a view of its own, and of one tenant on its page.

import { path, request } from "./api.js";
import { attribute, debounced, h } from "./dom.js";
import { count, time } from "./format.js";
import { live, subscribe } from "./live.js";
import { empty, failed, loading, shape } from "./parts.js";

/** Milliseconds that changes are collected before the list is read again. */
const DELAY = 500;

const KINDS = {
  joined: { words: "joined", mood: "following" },
  resynced: { words: "was resynced", mood: "following" },
  parked: { words: "was parked", mood: "parked" },
  reloaded: { words: "Configuration reloaded", mood: "joining" },
  failed_over: { words: "Another process took over", mood: "troubled" },
};

function item({ at, kind, tenant, code, text }, isOfTenant) {
  const { words, mood } = KINDS[kind] ?? { words: kind, mood: "unknown" };
  const name = tenant === null || isOfTenant ? null : h("a", { href: `#/tenants/${encodeURIComponent(tenant)}` }, tenant);
  const said = isOfTenant ? words[0].toUpperCase() + words.slice(1) : words;
  return h(
    "li",
    { "data-mood": mood, "data-kind": kind },
    shape(mood),
    h("time", { datetime: at, class: "faint" }, time(at, true)),
    h("span", null, name, name ? " " : "", said, text ? `: ${text}` : "", code ? h("span", { class: "faint" }, ` (${code})`) : null),
  );
}

/** The list, read again when the state of a tenant or of the process changes, until `close()`. */
export function timeline(tenant = null, limit = 50) {
  const list = h("ol", { class: "timeline" });
  const place = h("div", { class: "place low" }, loading("Loading the events"));
  const more = h("button", { type: "button", class: "more", hidden: "", onclick: () => read(next) }, "Show more");
  const total = h("p", { class: "faint" });
  const element = h("div", null, place, more, total);
  let next = null;
  let known = null;

  async function read(cursor = null) {
    try {
      const page = await request(path(["timeline"], { tenant, limit, cursor }));
      const items = page.events.map((event) => item(event, tenant !== null));
      if (cursor === null) list.replaceChildren(...items);
      else list.append(...items);
      place.replaceChildren(list.childElementCount ? list : empty("No events yet"));
      next = page.next;
      total.textContent = page.total ? `${count(page.total, "event")} are kept, at most about 1,000` : "";
    } catch (error) {
      place.replaceChildren(failed(error, () => read(cursor)));
    }
    attribute(more, "hidden", next === null ? "" : null);
  }

  /** The states whose change makes an event. */
  const states = () => {
    const { status } = live;
    const own = tenant === null ? [] : [live.tenants.get(tenant)?.state];
    return JSON.stringify([status?.tenants, status?.holder, ...own]);
  };
  const again = debounced(DELAY, () => read());
  const leave = subscribe(() => {
    const now = states();
    if (known !== null && now !== known) again();
    known = now;
  });
  read();
  return { element, close: leave };
}

export function timelineView() {
  const heading = h("h1", { tabindex: "-1" }, "Events");
  const events = timeline();
  return {
    element: h("div", { class: "page" }, h("header", { class: "head" }, heading), events.element),
    title: "Events",
    focus: () => heading,
    escape() {
      location.hash = "#/";
      return true;
    },
    close: events.close,
  };
}
