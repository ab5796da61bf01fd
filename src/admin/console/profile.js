// The panel beside the user list: one user with the raw profile that the target holds.

import { path, request } from "./api.js";
import { h, text } from "./dom.js";
import { time } from "./format.js";
import { copyButton, empty, failed, loading } from "./parts.js";

/** Longer profiles are shown without colours, which would take too long. */
const MAX_COLOURED = 200_000;

const TOKENS = /("(?:\\.|[^"\\])*")(\s*:)?|\b(?:true|false|null)\b|-?\d[\d.eE+-]*/g;

/** JSON as text nodes, with a span per token for colours. */
function coloured(json) {
  if (json.length > MAX_COLOURED) return [json];
  const pieces = [];
  let end = 0;
  for (const match of json.matchAll(TOKENS)) {
    const [token, string, colon] = match;
    const kind =
      string === undefined ? (/^[tfn]/.test(token) ? "word" : "number") : colon === undefined ? "string" : "key";
    pieces.push(json.slice(end, match.index), h("span", { class: kind }, string ?? token), colon ?? "");
    end = match.index + token.length;
  }
  return [...pieces, json.slice(end)];
}

/** `show(id)` opens the panel, `show(null)` closes it. `changed(ids)` reloads if the user is among them or `ids` is empty. */
export function profilePanel(tenant, leave) {
  const heading = h("h2", { tabindex: "-1" });
  const closer = h(
    "button",
    { type: "button", class: "quiet", onclick: leave },
    "Close",
    h("span", { class: "unseen" }, " the profile"),
    h("kbd", { "aria-hidden": "true" }, "Esc"),
  );
  const body = h("div");
  const element = h(
    "aside",
    { class: "profile", "aria-label": "Profile", hidden: true },
    h("header", null, heading, closer),
    body,
  );
  let user = null;
  let reading = null;

  async function read(isAgain) {
    reading?.abort();
    const mine = new AbortController();
    reading = mine;
    if (!isAgain) {
      text(heading, user);
      body.replaceChildren(loading("Loading the profile"));
    }
    try {
      const answer = await request(path(["tenants", tenant, "users", user]), { signal: mine.signal, verbatim: true });
      text(heading, answer.name ?? answer.email ?? answer.id);
      draw(answer);
    } catch (error) {
      if (mine.signal.aborted) return;
      body.replaceChildren(
        error.status === 404 ? empty("This target has no such user") : failed(error, () => read(false)),
      );
    }
  }

  function draw(answer) {
    const { raw_json: raw } = answer;
    const json = JSON.stringify(raw, null, 2);
    const facts = [
      ["Id", answer.id],
      ["E-mail", answer.email ?? "–"],
      ["Created", time(answer.created_at, true)],
      ["Updated", time(answer.updated_at, true)],
      ["Deleted", time(answer.deleted_at, true)],
    ];
    const title = h("div", { class: "raw" }, h("h3", null, "Raw profile"), copyButton(json));
    const code = h(
      "pre",
      { tabindex: "0", role: "region", "aria-label": "Raw profile" },
      h("code", null, ...coloured(json)),
    );
    const scroll = body.querySelector("pre")?.scrollTop ?? 0;
    body.replaceChildren(
      h(
        "dl",
        { class: "facts" },
        ...facts.map(([term, value]) => h("div", null, h("dt", null, term), h("dd", null, value))),
      ),
      title,
      code,
    );
    code.scrollTop = scroll;
  }

  return {
    element,
    get user() {
      return user;
    },
    show(id) {
      if (id === user) return;
      user = id;
      element.hidden = id === null;
      if (id === null) return reading?.abort();
      read(false);
      heading.focus({ preventScroll: true });
    },
    changed: (ids) => user !== null && (ids.length === 0 || ids.includes(user)) && read(true),
    close: () => reading?.abort(),
  };
}
