// The activity of the last hour: changes and sign-ups per minute, as bars.

import { path, request } from "./api.js";
import { attribute, h, svg, text } from "./dom.js";
import { number, time } from "./format.js";

/** Milliseconds between two reads. */
const INTERVAL = 15_000;
const [WIDTH, HEIGHT] = [600, 60];

function bars(title, key, css) {
  const line = svg("path", { class: css });
  const image = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" }, line);
  const said = h("span", { class: "said" });
  const begin = h("span");
  const element = h(
    "figure",
    { class: "chart bars" },
    h("figcaption", null, h("span", null, title), said),
    h("div", { class: "plot" }, image),
    h("div", { class: "axis", "aria-hidden": "true" }, begin, h("span", null, "now")),
  );
  const update = (minutes) => {
    const most = Math.max(1, ...minutes.map((minute) => minute[key]));
    const width = WIDTH / Math.max(1, minutes.length);
    const bar = (minute, index) => {
      const height = ((HEIGHT - 2) * minute[key]) / most;
      return height ? `M${(index * width).toFixed(1)} ${HEIGHT} v${-height.toFixed(1)} h${(width * 0.8).toFixed(1)} v${height.toFixed(1)} Z` : "";
    };
    attribute(line, "d", minutes.map(bar).join(" ").trim() || "M0 0");
    const total = minutes.reduce((sum, minute) => sum + minute[key], 0);
    const words = minutes.length ? `${number(total)} in the last hour, at most ${number(total && most)} a minute` : "";
    text(said, words);
    text(begin, minutes.length ? time(minutes[0].at) : "");
    attribute(image, "aria-label", `${title}: ${words || "no data yet"}`);
  };
  update([]);
  return { element, update };
}

/** Both charts of a tenant, or of all tenants; they are read again until `close()`. */
export function activity(tenant = null) {
  const charts = [bars("Changes per minute", "changes", "column"), bars("Sign-ups per minute", "sign_ups", "column new")];
  const element = h("section", { class: "charts", "aria-label": "Activity" }, ...charts.map((chart) => chart.element));
  const read = async () => {
    // The page reports in other ways that the process does not answer.
    const answer = await request(path(["activity"], { tenant })).catch(() => null);
    if (answer) charts.forEach(({ update }) => update(answer.minutes));
  };
  read();
  const ticking = setInterval(() => document.hidden || read(), INTERVAL);
  return { element, close: () => clearInterval(ticking) };
}
