// The strip above every view: role, source, slot, retained WAL, users without a tenant and Kafka output.

import { attribute, h, text } from "./dom.js";
import { age, bytes, none, time } from "./format.js";
import { live, subscribe } from "./live.js";
import { fault } from "./parts.js";

/** Reasons of the verdict in the banner; the list of tenants has the rest. */
const SHOWN_REASONS = 5;

/** Keys of users without a tenant in the strip; `status` has more. */
const SHOWN_KEYS = 3;

const ROLES = {
  streaming: "reads the slot",
  standby: "another process is replicating; this one is ready to take over",
  starting: "acquiring the slot",
};

/** A term with its value and a line of details. */
function cell(term) {
  const value = h("span", { class: "value" });
  const small = h("span", { class: "faint" });
  return {
    element: h("div", null, h("dt", null, term), h("dd", null, value, small)),
    set(what, more = "", mood = "") {
      text(value, what);
      text(small, more);
      attribute(value, "data-mood", mood || null);
    },
  };
}

/** The number of users without a tenant, and their keys. */
function withoutTenant(counted) {
  if (!counted) return ["unknown", "not counted yet", "unknown"];
  if (counted.users === null) return ["unknown", counted.error ?? "", "unknown"];
  if (counted.users === 0) return ["0", "every user has one"];
  const keyless = counted.without_key ? [`${counted.without_key} without a key`] : [];
  const keys = counted.keys.slice(0, SHOWN_KEYS).map(({ key, users }) => `${users} of ${key}`);
  const shown = counted.keys.slice(0, SHOWN_KEYS).reduce((sum, { users }) => sum + users, 0);
  const rest = counted.with_unknown_key - shown;
  return [String(counted.users), [...keyless, ...keys, ...(rest ? [`${rest} of other keys`] : [])].join(", ")];
}

const since = (seconds) => h("p", { class: "faint" }, `since ${time(Date.now() - seconds * 1000)}`);

/** Fills the strip and keeps it up to date. */
export function summary(strip) {
  const cells = {
    role: cell("Role"),
    source: cell("Source"),
    slot: cell("Slot"),
    held: cell("WAL retained"),
    tenantless: cell("Users without a tenant"),
    tee: cell("Kafka output"),
  };
  const faults = h("div", { class: "faults" });
  strip.append(h("dl", null, ...Object.values(cells).map(({ element }) => element)), faults);
  for (const { set } of Object.values(cells)) set(none, "", "unknown");
  let shown = null;
  const draw = () => {
    const { status } = live;
    // Without a connection the values are the last known ones.
    attribute(strip, "data-stale", status && live.connection === "live" ? null : "");
    if (!status) return;
    cells.role.set(
      status.role,
      status.is_held ? `held by ${status.holder}` : `not held, last held by ${status.holder || "no process"}`,
      status.role === "streaming" ? "following" : "joining",
    );
    attribute(cells.role.element, "title", ROLES[status.role] ?? null);
    cells.source.set(
      status.source_position ?? "unknown",
      status.source_position ? "end of WAL" : "cannot be read",
      status.source_position ? "" : "unknown",
    );
    cells.slot.set(status.slot, `confirmed ${status.confirmed}, generation ${status.generation}`);
    const isHeldKnown = status.wal_held_bytes !== null;
    cells.held.set(bytes(status.wal_held_bytes), isHeldKnown ? "by the slot" : "unknown", isHeldKnown ? "" : "unknown");
    cells.tenantless.set(...withoutTenant(status.users_without_tenant));
    const { tee } = status;
    cells.tee.element.classList.toggle("off", !tee);
    if (!tee) cells.tee.set("off", "not configured");
    else
      cells.tee.set(
        tee.state,
        `for ${age(tee.since_seconds)}, retains ${bytes(tee.wal_held_bytes)} of WAL` +
          (tee.rejected ? `, ${tee.rejected} users left out` : ""),
        tee.last_error ? "parked" : tee.state,
      );
    const { level, reasons, total } = status.verdict;
    const banner = JSON.stringify([level, total, reasons.map(({ since_seconds, ...reason }) => reason)]);
    if (banner !== shown) {
      shown = banner;
      attribute(faults, "data-level", level);
      const rest = total - Math.min(reasons.length, SHOWN_REASONS);
      faults.replaceChildren(
        ...reasons.slice(0, SHOWN_REASONS).map(({ code, text: what, remedy, tenant, since_seconds, level }) =>
          fault({
            what: `${tenant === null ? "" : `${tenant}: `}${what} (${code})`,
            remedy,
            mood: level === "failed" ? "parked" : "troubled",
            more: since_seconds === null ? null : since(since_seconds),
          }),
        ),
        ...(rest > 0 ? [h("p", { class: "faint" }, `and ${rest} more`)] : []),
      );
    }
    text(document.getElementById("version"), `${status.version} ${(status.commit ?? "").slice(0, 9)}`.trim());
  };
  subscribe((change) => (change.status || change.connection) && draw());
  draw();
}
