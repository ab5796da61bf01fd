// The users of one tenant as its target has them, with search, pages and live updates. Connects to the target.

import { path, request } from "./api.js";
import { announce, arrange, attribute, debounced, h, text } from "./dom.js";
import { count, number, time } from "./format.js";
import { live, subscribe } from "./live.js";
import { choices, empty, failed, fault, loading, mood, searchField } from "./parts.js";
import { profilePanel } from "./profile.js";
import { tenantHead } from "./tenant.js";

/** Users per page. */
const PAGE = 50;
/** Milliseconds without typing before a search starts. */
const TYPING_DELAY = 200;
/** Maximum number of recently changed users kept on top, and read per event. */
const RECENT = 20;

const WHICH = [
  { name: "", title: "All" },
  { name: "false", title: "Active" },
  { name: "true", title: "Deleted" },
];
const COLUMNS = [
  { title: "Name", key: "name" },
  { title: "E-mail", key: "email" },
  { title: "Id", key: "id" },
  { title: "Created", key: "created_at", isTime: true },
  { title: "Updated", key: "updated_at", isTime: true },
  { title: "Deleted", key: "deleted_at", isTime: true },
];
/** The newest first. A minus stands for descending. */
const ORDER = "-created_at";

export function usersView(tenant) {
  const base = `#/tenants/${encodeURIComponent(tenant)}/users`;
  const head = tenantHead(tenant, "Users");
  const rows = new Map();
  /** The page's users in the server's order, and users that changed while the page is open. */
  let [page, recent] = [[], []];
  /** Start cursors of the pages up to this one, and of the next page. */
  let [starts, next] = [[null], null];
  let [search, deleted, order] = [null, null, ORDER];
  /** What the server sorted by, and the number of users on all pages. */
  let [sorted, total, isEstimate] = [null, null, false];
  let [loaded, problem, stopped, isOld] = [false, null, false, false];
  let reading = null;

  const which = choices("Filter by deletion", WHICH, "", (name) => go({ deleted: name }));
  const field = searchField(
    "Search names, e-mails and ids",
    "",
    debounced(TYPING_DELAY, (typed) => go({ search: typed })),
  );
  const progress = h("span", { class: "found faint", role: "status" });
  const stop = h(
    "button",
    { type: "button", class: "quiet small", onclick: () => ((stopped = true), reading?.abort()) },
    "Stop",
  );
  const heads = new Map();
  const amount = h("span", { class: "faint amount" });
  const body = h("tbody", { role: "rowgroup" });
  const table = h(
    "table",
    { class: "users", role: "table", "aria-label": `Users of ${tenant}` },
    h(
      "thead",
      { role: "rowgroup" },
      h(
        "tr",
        { role: "row" },
        ...COLUMNS.map(columnHead),
      ),
    ),
    body,
  );
  const note = h(
    "p",
    { class: "note", role: "status" },
    "More users have changed than are shown here. ",
    h("button", { type: "button", class: "quiet small", onclick: () => read() }, "Reload"),
  );
  const unsorted = h(
    "p",
    { class: "note", hidden: "" },
    "Too many users to sort: they are shown by id. Search for an id, a name or an address.",
  );
  const standby = h(
    "p",
    { class: "note" },
    "This process is a standby: new and changed users do not appear automatically.",
  );
  const waiting = loading("Loading users");
  const place = h("div", { class: "place" }, waiting);
  const previous = h("button", { type: "button", onclick: () => turn(-1) }, "Previous");
  const following = h("button", { type: "button", onclick: () => turn(1) }, "Next");
  const at = h("span", { class: "faint" });
  const pager = h("nav", { class: "pager", "aria-label": "Pages" }, previous, at, following);
  const trouble = h("div", { class: "faults" });
  const list = h(
    "div",
    { class: "list" },
    h("div", { class: "tools" }, which.element, amount, h("span", { class: "grow" }), progress, stop, field),
    note,
    unsorted,
    standby,
    place,
    pager,
  );
  const panel = profilePanel(tenant, () => close());
  const element = h("div", { class: "page" }, head.element, trouble, h("div", { class: "split" }, list, panel.element));

  const query = (change = {}) => {
    const wanted = { search, deleted, sort: order, ...change };
    if (wanted.sort === ORDER) wanted.sort = "";
    const text = new URLSearchParams(Object.entries(wanted).filter(([, value]) => value)).toString();
    return text ? `?${text}` : "";
  };
  const go = (change) => {
    window.history.replaceState(null, "", base + query(change));
    window.dispatchEvent(new HashChangeEvent("hashchange"));
  };

  function columnHead({ title, key, isTime }) {
    const [first, second] = isTime ? [`-${key}`, key] : [key, `-${key}`];
    const button = h("button", { type: "button", onclick: () => go({ sort: order === first ? second : first }) }, title);
    const cell = h("th", { scope: "col", role: "columnheader", class: title.toLowerCase() }, button);
    heads.set(key, cell);
    return cell;
  }

  const sortKey = () => order.replace("-", "");
  const descending = () => order.startsWith("-");

  /** Address of a page of the list. */
  const pageAt = (cursor, limit) =>
    path(["tenants", tenant, "users"], { search, deleted, cursor, limit, sort: sortKey(), descending: descending() });

  function turn(step) {
    starts = step > 0 ? [...starts, next] : starts.slice(0, -1);
    read().then(() => element.scrollIntoView({ block: "start" }));
  }

  /** Reads the page at the last of `starts`. A search continues until the page is full or every user was examined. */
  async function read() {
    reading?.abort();
    const mine = new AbortController();
    reading = mine;
    [page, recent, next, problem, stopped, isOld, loaded] = [[], [], null, null, false, false, false];
    let cursor = starts.at(-1);
    draw();
    try {
      do {
        const answer = await request(pageAt(cursor, PAGE - page.length), { signal: mine.signal });
        [sorted, total, isEstimate] = [answer.sort, answer.total, answer.is_estimate];
        const known = new Set(page.map(({ id }) => id));
        page = [...page, ...answer.users.filter(({ id }) => !known.has(id))];
        recent = recent.filter(({ id }) => !page.some((user) => user.id === id));
        cursor = next = answer.next;
        loaded = answer.searched_all || cursor === null || page.length >= PAGE;
        draw();
      } while (!loaded);
      if (search)
        announce(next ? `more than ${count(page.length, "user")} found` : `${count(page.length, "user")} found`);
    } catch (error) {
      if (mine !== reading) return;
      loaded = true;
      if (!stopped) problem = error;
      draw();
    }
    if (mine === reading) reading = null;
  }

  function draw() {
    const shown = [...recent, ...page];
    const isSearching = !loaded && Boolean(search || deleted);
    text(amount, total === null ? "" : `${isEstimate ? "about " : ""}${count(total, "user")}`);
    unsorted.hidden = sorted === null || sorted === sortKey();
    for (const [key, cell] of heads) {
      const direction = descending() && sorted === sortKey() ? "descending" : "ascending";
      attribute(cell, "aria-sort", key === sorted ? direction : null);
    }
    text(progress, isSearching ? `searching, ${number(page.length)} found so far` : "");
    stop.hidden = !isSearching;
    note.hidden = !isOld;
    if (problem) place.replaceChildren(failed(problem, () => read()));
    else if (shown.length) {
      const wanted = shown.map((user, position) => {
        let row = rows.get(user.id);
        if (!row) rows.set(user.id, (row = userRow(user.id)));
        row.update(user, position < recent.length);
        return row.element;
      });
      arrange(body, wanted);
      const keep = new Set(shown.map(({ id }) => id));
      for (const id of rows.keys()) if (!keep.has(id)) rows.delete(id);
      if (place.firstChild !== table || place.childNodes.length > 1) place.replaceChildren(table);
    } else if (loaded) place.replaceChildren(nothing());
    else if (place.firstChild !== waiting) place.replaceChildren(waiting);
    const first = starts.length === 1;
    pager.hidden = first && !next;
    attribute(previous, "disabled", first ? "" : null);
    attribute(following, "disabled", next && loaded ? null : "");
    text(at, `Page ${number(starts.length)}`);
    mark();
  }

  function nothing() {
    if (stopped) return empty("Search stopped");
    if (search || deleted)
      return empty(
        "No matching users",
        h("button", { type: "button", onclick: () => go({ search: "", deleted: "" }) }, "Show all"),
      );
    return empty("No users yet", "New users appear here automatically while this page is open.");
  }

  const matches = (user) => {
    const words = search?.toLowerCase();
    const found = !words || [user.id, user.name, user.email].some((value) => value?.toLowerCase().includes(words));
    return found && (!deleted || String(user.deleted_at !== null) === deleted);
  };

  /** After a gap in the stream: reads the shown page again. A search is only marked as outdated. */
  async function catchUp() {
    panel.changed([]);
    const [cursor, mine] = [starts.at(-1), reading];
    if (search || deleted || !loaded) return outdated();
    const answer = await request(pageAt(cursor, PAGE)).catch(() => null);
    if (mine !== reading) return;
    if (!answer) return outdated();
    [page, recent, next, isOld] = [answer.users, [], answer.next, false];
    [total, isEstimate] = [answer.total, answer.is_estimate];
    draw();
  }

  function outdated() {
    isOld = true;
    draw();
  }

  /** Updates changed users in place if they are shown, else puts them on top. */
  async function changed(ids) {
    panel.changed(ids);
    if (!ids.length) return outdated();
    const wanted = ids.slice(-RECENT);
    isOld ||= ids.length > wanted.length;
    const users = await Promise.all(
      wanted.map((id) =>
        request(path(["tenants", tenant, "users", id])).catch((error) =>
          error.status === 404 ? { id, isGone: true } : null,
        ),
      ),
    );
    for (const user of users.filter(Boolean)) {
      const place = [page, recent].find((users) => users.some(({ id }) => id === user.id));
      const index = place?.findIndex(({ id }) => id === user.id);
      if (user.isGone) place?.splice(index, 1);
      else if (place) place[index] = user;
      else if (matches(user)) recent = [user, ...recent].slice(0, RECENT);
    }
    draw();
    for (const { id } of users.filter(Boolean)) rows.get(id)?.flash();
  }

  function userRow(id) {
    const link = h("a", { class: "row" });
    const badge = h("span", { class: "tag" }, "just now");
    const name = h("th", { scope: "row", role: "rowheader", class: "name" }, link);
    const cells = ["e-mail", "id", "created", "updated", "deleted"].map((key) => h("td", { role: "cell", class: key }));
    const element = h("tr", { role: "row" }, name, ...cells);
    element.addEventListener("click", (event) => {
      if (!event.target.closest("a, button") && !String(getSelection())) location.hash = link.getAttribute("href");
    });
    return {
      element,
      link,
      update(user, isRecent) {
        const [email, key, ...times] = cells;
        text(link, user.name ?? "no name");
        link.classList.toggle("nameless", user.name === null);
        attribute(link, "href", `${base}/${encodeURIComponent(id)}${query()}`);
        if (isRecent) name.append(badge);
        else badge.remove();
        element.classList.toggle("gone", user.deleted_at !== null);
        [email, key].forEach((cell, index) => {
          const value = index ? user.id : user.email;
          text(cell, value ?? "–");
          attribute(cell, "title", value);
        });
        times.forEach((cell, index) => {
          const value = [user.created_at, user.updated_at, user.deleted_at][index];
          text(cell, time(value));
          attribute(cell, "title", value);
        });
      },
      flash() {
        if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
        const flash = getComputedStyle(element).getPropertyValue("--flash");
        element.animate([{ backgroundColor: flash }, { backgroundColor: "transparent" }], {
          duration: 2500,
          easing: "ease-out",
        });
      },
    };
  }

  /** Marks the row whose profile is open. */
  function mark() {
    for (const [id, { element, link }] of rows) {
      element.classList.toggle("open", id === panel.user);
      attribute(link, "aria-current", id === panel.user ? "true" : null);
    }
  }

  function close() {
    location.hash = base + query();
  }

  function troubles() {
    const known = live.tenants.get(tenant);
    head.update();
    const now =
      known && (known.last_error || known.state === "parked")
        ? JSON.stringify([known.last_error, known.remedy, mood(known)])
        : "";
    if (trouble.dataset.told === now) return;
    trouble.dataset.told = now;
    trouble.replaceChildren(
      ...(now ? [fault({ what: known.last_error ?? "parked", remedy: known.remedy, mood: mood(known) })] : []),
    );
  }

  function hint() {
    standby.hidden = !live.status || live.status.role === "streaming";
  }

  const leave = subscribe((change) => {
    if (change.tenants?.has(tenant)) troubles();
    // A page that is being read already contains the change.
    if (change.users?.tenant === tenant && !problem) change.users.ids ? changed(change.users.ids) : catchUp();
    if (change.status) hint();
  });
  hint();
  troubles();

  return {
    element,
    title: `Users of ${tenant}`,
    focus: () => head.heading,
    change({ parts, query: asked }) {
      const sort = asked.get("sort") ?? ORDER;
      const known = COLUMNS.some(({ key }) => key === sort.replace("-", "")) ? sort : ORDER;
      const wanted = [asked.get("search") ?? "", asked.get("deleted") ?? "", known];
      if (wanted[0] !== search || wanted[1] !== deleted || known !== order) {
        [search, deleted, order] = wanted;
        starts = [null];
        which.press(deleted);
        const input = field.querySelector("input");
        if (document.activeElement !== input) input.value = search;
        read();
      }
      const [before, user] = [panel.user, parts[3] ?? null];
      panel.show(user);
      element.classList.toggle("with-profile", user !== null);
      mark();
      if (before && !user) rows.get(before)?.link.focus({ preventScroll: true });
    },
    escape() {
      if (panel.user) close();
      else location.hash = "#/";
      return true;
    },
    close() {
      leave();
      reading?.abort();
      panel.close();
    },
  };
}
