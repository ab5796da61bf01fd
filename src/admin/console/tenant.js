// The page of one tenant, without its users. It does not connect to the target.

import { path, request } from "./api.js";
import { attribute, h, text } from "./dom.js";
import { age, bytes, count, none, number, span } from "./format.js";
import { adopt, begin, jobCard } from "./jobs.js";
import { SAMPLE, history, live, subscribe } from "./live.js";
import { copyButton, empty, failed, fault, loading, mood, stateMark } from "./parts.js";
import { chart } from "./plot.js";

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
  const head = tenantHead(name, "Overview", buttons);
  const job = jobCard(name, (busy) => buttons.forEach((button) => attribute(button, "disabled", busy ? "" : null)));
  const troubles = h("div", { class: "faults" });
  const charts = [
    chart({ key: "lag_seconds", title: "Lag (time)", format: span }),
    chart({ key: "lag_bytes", title: "Lag (WAL)", format: bytes, isBytes: true }),
  ];
  const facts = Object.fromEntries(
    ["Target", "Position", "Behind", "Lag", "Queue", "Rejected users"].map((term) => [term, h("dd")]),
  );
  const body = h("div", { class: "place" }, loading("Loading the tenant"));
  const whole = [
    troubles,
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
  ];
  const element = h("div", { class: "page" }, head.element, body);
  let told = null;
  let there = false;

  function draw() {
    const tenant = live.tenants.get(name);
    if (!tenant) {
      if (live.complete && there) body.replaceChildren(empty("This tenant is no longer in the configuration"));
      return;
    }
    if (!there) {
      there = true;
      body.replaceChildren(...whole);
    }
    head.update();
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
    const now = JSON.stringify([tenant.last_error, tenant.remedy, tenant.rejected, tenant.state]);
    if (now === told) return;
    told = now;
    troubles.replaceChildren(...faults(tenant));
  }

  function faults(tenant) {
    const list = [];
    if (tenant.last_error) list.push(fault({ what: tenant.last_error, remedy: tenant.remedy, mood: mood(tenant) }));
    else if (tenant.state === "parked") list.push(fault({ what: "parked", remedy: tenant.remedy }));
    if (tenant.rejected) {
      const sql = "SELECT id, reason, sqlstate, since, tried_at FROM users_sync.rejected";
      const more = h(
        "p",
        { class: "remedy" },
        h("span", { class: "faint" }, "In the target: "),
        h("code", null, sql),
        copyButton(sql),
      );
      list.push(fault({ what: `the target rejected ${count(tenant.rejected, "user")}`, mood: "troubled", more }));
    }
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
  const leave = subscribe((change) => change.tenants?.has(name) && draw());
  const ticking = setInterval(draw, SAMPLE);
  draw();
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
    },
  };
}
