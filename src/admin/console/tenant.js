// The page of one tenant, without its users. It connects to the target to count them when it opens, and after changes.

import { act } from "./actions.js";
import { activity } from "./activity.js";
import { path, request } from "./api.js";
import { attribute, h, text } from "./dom.js";
import { age, bytes, count, none, number, span, time } from "./format.js";
import { adopt, begin, jobCard } from "./jobs.js";
import { SAMPLE, history, live, subscribe } from "./live.js";
import { empty, failed, fault, loading, mood, stateMark } from "./parts.js";
import { chart } from "./plot.js";
import { timeline } from "./timeline.js";

/** Milliseconds between two counts of the users. */
const COUNT_INTERVAL = 15_000;

/** Heading of a tenant's pages: id, state and tabs. */
export function tenantHead(name, tab, actions = []) {
  const page = `#/tenants/${encodeURIComponent(name)}`;
  const state = stateMark();
  const since = h("span", { class: "faint" });
  const heading = h("h1", { tabindex: "-1" }, name);
  const link = (title, href) => h("a", { class: "tab", href, "aria-current": title === tab ? "page" : null }, title);
  const element = h(
    "header",
    { class: "head" },
    h(
      "nav",
      { class: "crumbs", "aria-label": "Breadcrumb" },
      h("a", { href: "#/" }, h("span", { "aria-hidden": "true" }, "← "), "All tenants"),
    ),
    h(
      "div",
      { class: "name" },
      heading,
      state.element,
      since,
      h("span", { class: "grow" }),
      h("div", { class: "actions" }, ...actions),
    ),
    h("nav", { class: "tabs", "aria-label": "Tenant pages" }, link("Overview", page), link("Users", `${page}/users`)),
  );
  return {
    element,
    heading,
    update() {
      const tenant = live.tenants.get(name);
      if (!tenant) return;
      state.update(tenant);
      text(since, tenant.since === null ? "" : `for ${age((Date.now() - tenant.since) / 1000)}`);
    },
  };
}

export function tenantView(name) {
  const buttons = ["verify", "resync"].map((kind) =>
    h(
      "button",
      { type: "button", "aria-haspopup": "dialog", onclick: () => begin(kind, name) },
      kind === "verify" ? "Verify…" : "Resync…",
    ),
  );
  const pausing = h(
    "button",
    { type: "button", "aria-haspopup": "dialog", onclick: () => perform(isPaused() ? "resume" : "pause") },
    "Pause…",
  );
  const head = tenantHead(name, "Overview", [...buttons, pausing]);
  const outcome = h("div", { class: "faults" });
  const rejects = rejectedList(name, () => perform("retry"));
  const job = jobCard(name, (busy) => buttons.forEach((button) => attribute(button, "disabled", busy ? "" : null)));
  const troubles = h("div", { class: "faults" });
  const lately = activity(name);
  const events = timeline(name, 10);
  const charts = [
    chart({ key: "lag_seconds", title: "Lag (time)", format: span }),
    chart({ key: "lag_bytes", title: "Lag (WAL)", format: bytes, isBytes: true }),
  ];
  const facts = Object.fromEntries(
    ["Target", "Users", "Deleted", "Last change", "Position", "Behind", "Lag", "Queue", "Rejected users"].map((term) => [term, h("dd")]),
  );
  const body = h("div", { class: "place" }, loading("Loading the tenant"));
  const whole = [
    troubles,
    outcome,
    job.element,
    h("section", { class: "charts", "aria-label": "Lag" }, ...charts.map(({ element }) => element)),
    h(
      "section",
      { "aria-label": "Details" },
      h(
        "dl",
        { class: "facts wide" },
        ...Object.entries(facts).map(([term, value]) => h("div", null, h("dt", null, term), value)),
      ),
    ),
    lately.element,
    rejects.element,
    h("section", { "aria-label": "Events" }, h("h2", null, "Events"), events.element),
  ];
  const element = h("div", { class: "page" }, head.element, body);
  let told = null;
  let there = false;
  let countedAt = 0;

  const isPaused = () => Boolean(live.tenants.get(name)?.paused);

  /** An error stays on the page until the next action. */
  async function perform(kind) {
    outcome.replaceChildren();
    try {
      if ((await act(kind, name)) && kind === "retry") await rejects.load();
    } catch (error) {
      outcome.replaceChildren(failed(error));
    }
  }

  /** Counts the users of a target that is written to anyway: a suspended one must not be woken by an open page. */
  async function recount() {
    const isOld = Date.now() - countedAt > COUNT_INTERVAL;
    if (live.tenants.get(name)?.state !== "following" || !isOld) return;
    countedAt = Date.now();
    // The page reports in other ways that a target is down.
    const answer = await request(path(["tenants", name, "counts"])).catch(() => null);
    if (!answer) return;
    const { users, deleted, total, last_change } = answer;
    text(facts.Users, users === null && total !== null ? `about ${number(total)}, with deleted ones` : number(users));
    text(facts.Deleted, number(deleted));
    text(facts["Last change"], time(last_change, true));
  }

  function draw() {
    const tenant = live.tenants.get(name);
    if (!tenant) {
      if (live.complete && there) body.replaceChildren(empty("This tenant is no longer in the configuration"));
      return;
    }
    if (!there) {
      there = true;
      body.replaceChildren(...whole);
      ["Users", "Deleted", "Last change"].forEach((term) => text(facts[term], none));
    }
    head.update();
    text(pausing, tenant.paused ? "Resume…" : "Pause…");
    rejects.update(tenant.rejected);
    const samples = history(name, true);
    if (samples) charts.forEach((one) => one.update(samples));
    text(facts.Position, tenant.position ?? none);
    text(facts.Behind, bytes(tenant.lag_bytes));
    text(facts.Lag, span(tenant.lag_seconds));
    text(
      facts.Queue,
      tenant.queue_users ? `${count(tenant.queue_users, "user")}, ${bytes(tenant.queue_bytes)}` : "empty",
    );
    text(facts["Rejected users"], number(tenant.rejected));
    text(facts.Target, tenant.target ?? none);
    const pause = tenant.paused && [tenant.paused.reason, tenant.paused.by];
    const now = JSON.stringify([tenant.last_error, tenant.remedy, tenant.rejected, tenant.state, pause]);
    if (now === told) return;
    told = now;
    troubles.replaceChildren(...faults(tenant));
  }

  function faults(tenant) {
    const list = [];
    if (tenant.last_error) list.push(fault({ what: tenant.last_error, remedy: tenant.remedy, mood: mood(tenant) }));
    else if (tenant.state === "parked") list.push(fault({ what: "parked", remedy: tenant.remedy }));
    if (tenant.paused) {
      const { reason, by, wal_limit_bytes } = tenant.paused;
      const more = h(
        "p",
        { class: "remedy" },
        `Its changes wait: at most ${bytes(wal_limit_bytes)} of the source's WAL is held back for it.`,
      );
      list.push(fault({ what: `paused (${by}): ${reason}`, mood: "paused", more }));
    }
    if (tenant.rejected)
      list.push(fault({ what: `the target rejected ${count(tenant.rejected, "user")}, listed below`, mood: "troubled" }));
    return list;
  }

  // A failure here needs no message: the view itself reports that the API is unreachable.
  adopt(name).catch(() => {});
  // The address may name an unknown tenant.
  request(path(["tenants", name])).then(draw, (error) => {
    if (!there)
      body.replaceChildren(
        error.status === 404
          ? empty("No such tenant", h("a", { href: "#/" }, "All tenants"))
          : failed(error, () => location.reload()),
      );
  });
  const leave = subscribe((change) => {
    if (!change.tenants?.has(name)) return;
    draw();
    recount();
  });
  const ticking = setInterval(draw, SAMPLE);
  draw();
  recount();
  return {
    element,
    title: name,
    focus: () => head.heading,
    escape() {
      location.hash = "#/";
      return true;
    },
    close() {
      leave();
      clearInterval(ticking);
      job.close();
      lately.close();
      events.close();
    },
  };
}

/** The list of rejected users, read from the target once there are any. `update(count)` shows or hides it. */
function rejectedList(name, retry) {
  const rows = h("tbody");
  const head = ["Id", "Reason", "Code", "Since"].map((title) => h("th", { scope: "col" }, title));
  const table = h("table", { class: "rejects" }, h("thead", null, h("tr", null, ...head)), rows);
  const more = h("button", { type: "button", class: "more", onclick: () => load(next) }, "Show more");
  const again = h("button", { type: "button", "aria-haspopup": "dialog", onclick: retry }, "Try again…");
  const problem = h("div");
  const element = h(
    "section",
    { "aria-label": "Rejected users", hidden: "" },
    h("div", { class: "name" }, h("h2", null, "Rejected users"), h("span", { class: "grow" }), again),
    problem,
    h("div", { class: "place", tabindex: "0", role: "group", "aria-label": "List of rejected users" }, table),
    more,
  );
  let next = null;
  let shown = 0;

  async function load(cursor = null) {
    try {
      const page = await request(path(["tenants", name, "rejected"], { cursor }));
      problem.replaceChildren();
      if (cursor === null) rows.replaceChildren();
      for (const { id, reason, sqlstate, since } of page.users) {
        const cells = [h("code", null, id), reason, h("code", null, sqlstate), time(since, true)];
        rows.append(h("tr", null, ...cells.map((cell) => h("td", null, cell))));
      }
      next = page.next;
    } catch (error) {
      problem.replaceChildren(failed(error, () => load(cursor)));
    }
    attribute(more, "hidden", next === null ? "" : null);
  }

  return {
    element,
    load,
    update(total) {
      attribute(element, "hidden", total ? null : "");
      if (total && total !== shown) load();
      shown = total;
    },
  };
}
