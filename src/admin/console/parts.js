// Small things that every view shows alike: a state, a fault with its remedy, an empty list.

import { h, svg, text } from "./dom.js";

/** A tenant that a person should look at. Where one joins, `last_error` says why: that is no fault. */
export const isTroubled = ({ state, last_error, rejected }) =>
  state === "parked" || (state === "following" && last_error !== null) || rejected > 0;

/** How bad it is: `parked`, `troubled`, or the state itself. Shape and colour follow it. */
export const mood = (tenant) => (tenant.state !== "parked" && isTroubled(tenant) ? "troubled" : tenant.state);

const SHAPES = {
  following: () => svg("circle", { cx: 6, cy: 6, r: 4 }),
  joining: () => svg("path", { d: "M6 2 A4 4 0 1 1 2 6", class: "ring" }),
  parked: () => svg("rect", { x: 2, y: 2, width: 8, height: 8, rx: 1.5 }),
  troubled: () => svg("path", { d: "M6 1.500 L11 10.500 H1 Z" }),
  unknown: () => svg("circle", { cx: 6, cy: 6, r: 3.5, class: "ring" }),
};

/** A state by shape, colour and word; `update(tenant)` changes it. */
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
      text(more, now === "troubled" ? ", with a fault" : "");
      if (now === shown) return;
      shown = now;
      element.dataset.mood = now;
      element.replaceChildren(shape(now), word, more);
    },
  };
}

/** The shape alone. */
export const shape = (name) =>
  svg(
    "svg",
    { class: "shape", viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true" },
    SHAPES[name]?.() ?? SHAPES.unknown(),
  );

/** What is wrong, and what mends it. */
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
            h("span", { class: "faint" }, "What mends it: "),
            h("span", null, remedy),
            copyButton(remedy),
          )
        : null,
      more,
    ),
  );
}

/** An error of the API, with a way to try again. */
export function failed(error, again) {
  const label = error.status === 401 ? "Enter the token" : "Try again";
  const button = again ? h("button", { type: "button", onclick: again }, label) : null;
  return h("div", { role: "alert" }, fault({ what: error.message, remedy: error.remedy, more: button }));
}

/** Copies a text where the browser lets a page do that. */
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

/** Words where a list would be. */
export const empty = (title, ...more) =>
  h("div", { class: "empty" }, h("p", { class: "title" }, title), ...more.map((line) => h("p", null, line)));

/** Grey bars in place of rows; they show only when waiting takes long enough to be seen. */
export const loading = (words) =>
  h(
    "div",
    { class: "loading", role: "status" },
    h("span", { class: "unseen" }, words),
    ...Array.from({ length: 8 }, () => h("span", { class: "bar", "aria-hidden": "true" })),
  );

/** A search field; `/` finds it by its class. */
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

/** Buttons of which exactly one is pressed; `update(values)` sets the numbers. */
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
