// Components that all views share: states, errors with their fix, empty lists, search and filters.

import { h, svg, text } from "./dom.js";

/** True if the tenant needs attention. While it is joining, `last_error` only says why, unless an attempt has failed. */
export const isTroubled = ({ state, last_error, failures, rejected }) =>
  state === "parked" ||
  state === "paused" ||
  (state === "following" && last_error !== null) ||
  (state === "joining" && failures > 0) ||
  rejected > 0;

/** `troubled` if a tenant that is neither parked nor paused needs attention, else its state. Selects shape and colour. */
export const mood = (tenant) =>
  tenant.state !== "parked" && tenant.state !== "paused" && isTroubled(tenant) ? "troubled" : tenant.state;

const SHAPES = {
  following: () => svg("circle", { cx: 6, cy: 6, r: 4 }),
  joining: () => svg("path", { d: "M6 2 A4 4 0 1 1 2 6", class: "ring" }),
  parked: () => svg("rect", { x: 2, y: 2, width: 8, height: 8, rx: 1.5 }),
  paused: () => svg("path", { d: "M3 2 H5 V10 H3 Z M7 2 H9 V10 H7 Z" }),
  troubled: () => svg("path", { d: "M6 1.500 L11 10.500 H1 Z" }),
  unknown: () => svg("circle", { cx: 6, cy: 6, r: 3.5, class: "ring" }),
};

/** The state as shape, colour and word; `update(tenant)` changes it. */
export function stateMark() {
  const element = h("span", { class: "state" });
  let shown = null;
  const word = h("span");
  const more = h("span", { class: "unseen" });
  return {
    element,
    update(tenant) {
      const now = mood(tenant);
      text(word, tenant.state);
      text(more, now === "troubled" ? ", with an error" : "");
      if (now === shown) return;
      shown = now;
      element.dataset.mood = now;
      element.replaceChildren(shape(now), word, more);
    },
  };
}

/** Only the shape. */
export const shape = (name) =>
  svg(
    "svg",
    { class: "shape", viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true" },
    SHAPES[name]?.() ?? SHAPES.unknown(),
  );

/** An error and how to fix it. */
export function fault({ what, remedy, mood: how = "parked", more = null }) {
  return h(
    "div",
    { class: "fault", "data-mood": how },
    shape(how),
    h(
      "div",
      null,
      h("p", { class: "what" }, what),
      remedy
        ? h(
            "p",
            { class: "remedy" },
            h("span", { class: "faint" }, "How to fix: "),
            h("span", null, remedy),
            copyButton(remedy),
          )
        : null,
      more,
    ),
  );
}

/** An API error with a button to retry. */
export function failed(error, again) {
  const label = error.status === 401 ? "Enter token" : "Try again";
  const button = again ? h("button", { type: "button", onclick: again }, label) : null;
  return h("div", { role: "alert" }, fault({ what: error.message, remedy: error.remedy, more: button }));
}

/** A button that copies a text; null if the browser has no clipboard access. */
export function copyButton(value, label = "Copy") {
  if (!navigator.clipboard) return null;
  const button = h("button", { type: "button", class: "quiet small" }, label);
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(value);
    button.textContent = "Copied";
    setTimeout(() => {
      button.textContent = label;
    }, 1500);
  });
  return button;
}

/** Placeholder of an empty list. */
export const empty = (title, ...more) =>
  h("div", { class: "empty" }, h("p", { class: "title" }, title), ...more.map((line) => h("p", null, line)));

/** Grey bars in place of rows, shown only after a short delay. */
export const loading = (words) =>
  h(
    "div",
    { class: "loading", role: "status" },
    h("span", { class: "unseen" }, words),
    ...Array.from({ length: 8 }, () => h("span", { class: "bar", "aria-hidden": "true" })),
  );

/** A search field; the `/` shortcut finds it by its class. */
export function searchField(label, value, input) {
  const field = h("input", {
    type: "search",
    class: "search",
    placeholder: label,
    "aria-label": label,
    "aria-keyshortcuts": "/",
    autocomplete: "off",
    spellcheck: "false",
    value,
  });
  field.addEventListener("input", () => input(field.value.trim()));
  return h("div", { class: "searching" }, field, h("kbd", { "aria-hidden": "true" }, "/"));
}

/** A group of buttons with exactly one pressed; `update(values)` sets their counts. */
export function choices(label, options, chosen, choose) {
  const buttons = new Map();
  const element = h("div", { class: "choices", role: "group", "aria-label": label });
  const press = (name) => {
    for (const [other, { button }] of buttons) button.setAttribute("aria-pressed", String(other === name));
  };
  for (const { name, title, mark } of options) {
    const amount = h("span", { class: "amount" });
    const button = h(
      "button",
      { type: "button", "data-name": name },
      mark ? shape(mark) : null,
      h("span", null, title),
      amount,
    );
    if (mark) button.dataset.mood = mark;
    button.addEventListener("click", () => {
      press(name);
      choose(name);
    });
    buttons.set(name, { button, amount });
    element.append(button);
  }
  press(chosen);
  return {
    element,
    press,
    update(values) {
      for (const [name, { button, amount }] of buttons) {
        text(amount, values[name] === undefined ? "" : String(values[name]));
        button.classList.toggle("zero", values[name] === 0);
      }
    },
  };
}
