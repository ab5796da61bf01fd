// The list of all tenants with state, errors and fixes. Rows are created while scrolling.

import { activity } from "./activity.js";
import { announce, arrange, attribute, debounced, h, text } from "./dom.js";
import { age, bytes, count, none, number, span } from "./format.js";
import { SAMPLE, history, live, subscribe } from "./live.js";
import { choices, empty, isTroubled, loading, mood, searchField, stateMark } from "./parts.js";
import { sparkline } from "./plot.js";

/** Rows that are added per step. */
const STEP = 60;
/** Milliseconds without typing before a search starts. */
const TYPING_DELAY = 120;

const RANK = { parked: 0, paused: 1, troubled: 2, joining: 3, unknown: 4, following: 5 };
const byName = new Intl.Collator("en", { numeric: true }).compare;
const ORDERS = {
  state: (a, b) => RANK[mood(a)] - RANK[mood(b)],
  tenant: () => 0,
  lag: (a, b) => (b.lag_seconds ?? -1) - (a.lag_seconds ?? -1) || (b.lag_bytes ?? -1) - (a.lag_bytes ?? -1),
};
const FILTERS = [
  { name: "", title: "All", keep: () => true },
  { name: "attention", title: "Needs attention", mark: "troubled", keep: isTroubled },
  { name: "following", title: "Following", mark: "following" },
  { name: "joining", title: "Joining", mark: "joining" },
  { name: "parked", title: "Parked", mark: "parked" },
  { name: "paused", title: "Paused", mark: "paused" },
  { name: "unknown", title: "Unknown", mark: "unknown" },
].map((filter) => ({ keep: (tenant) => tenant.state === filter.name, ...filter }));

const COLUMNS = [
  { name: "state", title: "State", sort: "state" },
  { name: "tenant", title: "Tenant", sort: "tenant" },
  { name: "target", title: "Target" },
  { name: "lag", title: "Lag", sort: "lag" },
  { name: "behind", title: "Behind" },
  { name: "queue", title: "Queue" },
  { name: "refused", title: "Rejected" },
  { name: "since", title: "Since" },
  { name: "go", title: "Users" },
];

/** Columns that the style sheet hides on narrow screens. A colspan beyond the visible columns would create new ones. */
const NARROW = ["(max-width: 1100px)", "(max-width: 1100px)", "(max-width: 900px)"].map((query) => matchMedia(query));
const columns = () => COLUMNS.length - NARROW.filter(({ matches }) => matches).length;

/** The tenant whose row had the focus when it was opened. */
let opened = null;

export function tenantsView() {
  const rows = new Map();
  let [filter, words, order] = ["", "", "state"];
  let names = [];
  let limit = STEP;

  const heads = new Map();
  const head = h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...COLUMNS.map(columnHead)));
  const table = h("table", { class: "tenants", role: "table", "aria-label": "Tenants" }, head);
  const more = h("button", { type: "button", class: "more", onclick: () => grow() }, "Show more");
  const place = h("div", { class: "place" }, loading("Loading tenants"));
  const filters = choices("Filter by state", FILTERS, filter, (name) => go({ state: name }));
  const search = searchField(
    "Search tenants, targets and errors",
    "",
    debounced(TYPING_DELAY, (typed) => go({ q: typed })),
  );
  const found = h("span", { class: "found faint" });
  const lately = activity();
  const element = h(
    "div",
    { class: "page" },
    h("h1", { class: "unseen" }, "Tenants"),
    lately.element,
    h("div", { class: "tools" }, filters.element, h("span", { class: "grow" }), found, search),
    place,
  );

  function columnHead({ name, title, sort }) {
    const attributes = { scope: "col", role: "columnheader", class: name };
    if (!sort) return h("th", attributes, name === "go" ? h("span", { class: "unseen" }, title) : title);
    const cell = h("th", attributes, h("button", { type: "button", onclick: () => go({ sort }) }, title));
    heads.set(sort, cell);
    return cell;
  }

  /** Writes the view state to the address. Replaces the history entry, so that typing does not add entries. */
  function go(change) {
    const wanted = { state: filter, q: words, sort: order === "state" ? "" : order, ...change };
    if (change.sort === "state") wanted.sort = "";
    const query = new URLSearchParams(Object.entries(wanted).filter(([, value]) => value)).toString();
    window.history.replaceState(null, "", query ? `#/?${query}` : "#/");
    window.dispatchEvent(new HashChangeEvent("hashchange"));
  }

  function grow() {
    limit += STEP;
    lay();
  }

  const scrolled = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && grow(), {
    rootMargin: "600px",
  });
  const seen = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        const row = rows.get(target.dataset.tenant);
        if (!row) continue;
        row.visible = isIntersecting;
        if (isIntersecting) row.draw(true);
      }
    },
    { rootMargin: "100px" },
  );

  /** Filters and sorts the rows. */
  function select() {
    const all = [...live.tenants.values()];
    const text = words.toLowerCase();
    const { keep } = FILTERS.find(({ name }) => name === filter) ?? FILTERS[0];
    const matches = ({ tenant, target, last_error }) =>
      [tenant, target, last_error].some((value) => value?.toLowerCase().includes(text));
    const kept = all.filter((tenant) => keep(tenant) && (!text || matches(tenant)));
    kept.sort((a, b) => ORDERS[order](a, b) || byName(a.tenant, b.tenant));
    names = kept.map(({ tenant }) => tenant);
    filters.update(Object.fromEntries(FILTERS.map(({ name, keep }) => [name, all.filter(keep).length])));
    lay();
  }

  function lay() {
    const shown = names.slice(0, limit);
    for (const [name, row] of rows) {
      if (live.tenants.has(name)) continue;
      seen.unobserve(row.element);
      rows.delete(name);
    }
    const bodies = shown.map((name) => {
      let row = rows.get(name);
      if (!row) {
        row = tenantRow(name);
        rows.set(name, row);
        seen.observe(row.element);
      }
      row.update();
      return row.element;
    });
    arrange(table, [head, ...bodies]);
    text(found, filter || words ? `${count(names.length, "tenant")} of ${number(live.tenants.size)}` : "");
    scrolled.disconnect();
    if (names.length) arrange(place, [table, names.length > limit ? more : null].filter(Boolean));
    else place.replaceChildren(nothing());
    if (names.length > limit) {
      text(more, `Show more (${number(names.length - limit)})`);
      scrolled.observe(more);
    }
  }

  function nothing() {
    if (!live.complete) return live.connection === "lost" ? empty("No data yet") : loading("Loading tenants");
    if (live.tenants.size === 0)
      return empty(
        "No tenants yet",
        "Add them under tenants in the configuration. Changes apply without a restart.",
      );
    if (filter === "attention" && !words)
      return empty("All tenants are healthy", "No tenant is parked, paused, has an error or rejects users.");
    return empty(
      "No matching tenants",
      h("button", { type: "button", onclick: () => go({ state: "", q: "" }) }, "Show all"),
    );
  }

  // Reordering rows is debounced; numbers are updated in place.
  const settle = debounced(50, select);
  const moods = new Map();
  const leave = subscribe((change) => {
    if (change.connection && !live.tenants.size) return lay();
    if (!change.tenants) return;
    let moved = false;
    for (const name of change.tenants) {
      const tenant = live.tenants.get(name);
      const now = tenant && `${mood(tenant)} ${tenant.state}`;
      if (moods.get(name) !== now) {
        if (tenant && moods.has(name)) say(tenant);
        moods.set(name, now);
        moved = true;
      }
      if (rows.get(name)?.element.isConnected && tenant) rows.get(name).update();
    }
    if (moved) settle();
  });
  const say = ({ tenant, state, last_error }) =>
    announce(`${tenant} is ${state}${last_error ? `: ${last_error}` : ""}`);
  const narrowed = debounced(50, lay);
  for (const query of NARROW) query.addEventListener("change", narrowed);
  const ticking = setInterval(() => {
    for (const row of rows.values()) if (row.visible && row.element.isConnected) row.draw(false);
  }, SAMPLE);

  return {
    element,
    title: "Tenants",
    change({ query }) {
      const before = [filter, words, order].join("\n");
      [filter, words, order] = [query.get("state") ?? "", query.get("q") ?? "", query.get("sort") ?? "state"];
      if (!(order in ORDERS)) order = "state";
      if ([filter, words, order].join("\n") !== before) limit = STEP;
      filters.press(filter);
      const field = search.querySelector("input");
      if (document.activeElement !== field) field.value = words;
      for (const [name, cell] of heads)
        attribute(cell, "aria-sort", name === order ? (name === "lag" ? "descending" : "ascending") : null);
      for (const tenant of live.tenants.values()) moods.set(tenant.tenant, `${mood(tenant)} ${tenant.state}`);
      select();
    },
    focus: () => (opened && rows.get(opened)?.element.querySelector("a.row")) || null,
    close() {
      leave();
      lately.close();
      for (const query of NARROW) query.removeEventListener("change", narrowed);
      clearInterval(ticking);
      scrolled.disconnect();
      seen.disconnect();
    },
  };
}

/** A tenant's row, with a second row below it for an error. */
function tenantRow(name) {
  const page = `#/tenants/${encodeURIComponent(name)}`;
  const state = stateMark();
  const plot = sparkline();
  const cells = Object.fromEntries(
    ["target", "behind", "queue", "refused", "since"].map((key) => [key, h("td", { role: "cell", class: key })]),
  );
  const lag = h("span", { class: "number" });
  const main = h(
    "tr",
    { role: "row", class: "main" },
    h("td", { role: "cell", class: "state" }, state.element),
    h("th", { role: "rowheader", scope: "row", class: "tenant" }, h("a", { class: "row", href: page }, name)),
    cells.target,
    h("td", { role: "cell", class: "lag" }, h("div", null, plot.element, lag)),
    cells.behind,
    cells.queue,
    cells.refused,
    cells.since,
    h(
      "td",
      { role: "cell", class: "go" },
      h("a", { class: "users", href: `${page}/users` }, "Users", h("span", { class: "unseen" }, ` of ${name}`)),
    ),
  );
  const what = h("p", { class: "what" });
  const remedy = h("p", { class: "remedy" });
  const whole = h("td", { role: "cell" }, what, remedy);
  const trouble = h("tr", { role: "row", class: "trouble" }, whole);
  const element = h("tbody", { role: "rowgroup", "data-tenant": name }, main);
  element.addEventListener("click", (event) => {
    if (event.target.closest("a, button") || String(getSelection())) return;
    location.hash = page;
  });
  element.addEventListener("focusin", () => {
    opened = name;
  });
  const row = {
    element,
    visible: false,
    update() {
      const tenant = live.tenants.get(name);
      state.update(tenant);
      attribute(element, "data-mood", mood(tenant));
      text(cells.target, tenant.target ?? none);
      attribute(cells.target, "title", tenant.target ?? null);
      text(lag, span(tenant.lag_seconds));
      text(cells.behind, bytes(tenant.lag_bytes));
      text(cells.queue, tenant.queue_users ? `${number(tenant.queue_users)} · ${bytes(tenant.queue_bytes)}` : none);
      attribute(
        cells.queue,
        "title",
        tenant.queue_users
          ? `${count(tenant.queue_users, "user")}, ${bytes(tenant.queue_bytes)} queued for the target`
          : null,
      );
      text(cells.refused, tenant.rejected ? number(tenant.rejected) : none);
      attribute(whole, "colspan", columns());
      trouble.classList.toggle("calm", !isTroubled(tenant));
      const wrong =
        tenant.last_error ?? (tenant.rejected ? `the target rejected ${count(tenant.rejected, "user")}` : null);
      text(what, wrong ?? "");
      text(
        remedy,
        tenant.remedy ?? (tenant.rejected && !tenant.last_error ? "see users_sync.rejected in the target" : ""),
      );
      if (wrong && !trouble.isConnected) element.append(trouble);
      else if (!wrong) trouble.remove();
      row.draw(false);
    },
    /** Updates what changes with time: the plot and the age. */
    draw(wanted) {
      const tenant = live.tenants.get(name);
      if (!tenant) return;
      text(cells.since, tenant.since === null ? none : age((Date.now() - tenant.since) / 1000));
      const samples = history(name, wanted && tenant.state !== "unknown");
      if (row.visible) plot.update(samples);
    },
  };
  return row;
}
