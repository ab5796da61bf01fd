// Recent lag as inline SVG: a sparkline in a row, a chart on the tenant's page.

import { SAMPLE, SAMPLES } from "./live.js";
import { attribute, h, svg, text } from "./dom.js";

const SPAN = SAMPLE * SAMPLES;

/** Line and area of a plot of `width` by `height`, with gaps where the value is unknown. */
function lines(samples, key, { width, height, top, now }) {
  const x = (at) => (width * (1 - (now - at) / SPAN)).toFixed(1);
  const y = (value) => (height - 1 - (height - 2) * Math.min(1, value / top)).toFixed(1);
  let [line, area] = ["", ""];
  let run = [];
  const end = () => {
    if (run.length) {
      const points = run.map(({ at, value }) => `${x(at)},${y(value)}`).join(" L");
      line += `M${points} `;
      area += `M${x(run[0].at)},${height} L${points} L${x(run.at(-1).at)},${height} Z `;
    }
    run = [];
  };
  for (const sample of samples) {
    if (sample.at < now - SPAN - SAMPLE) continue;
    if (sample[key] === null) end();
    else {
      const last = run.at(-1);
      // No sample is sent while nothing changes: hold the last value.
      if (last && sample.at - last.at > 2 * SAMPLE) run.push({ at: sample.at - SAMPLE, value: last.value });
      run.push({ at: sample.at, value: sample[key] });
    }
  }
  // The last value holds until now.
  if (run.length && run.at(-1).at < now) run.push({ at: now, value: run.at(-1).value });
  end();
  return { line, area };
}

const most = (samples, key) => samples.reduce((peak, sample) => Math.max(peak, sample[key] ?? 0), 0);

/** Rounds up to 1, 2 or 5 times a power of ten; sizes to a power of two, at least 1024. */
function ceiling(value, isBytes) {
  if (isBytes) return 2 ** Math.ceil(Math.log2(Math.max(value, 1024)));
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

/** A plot without labels for a table row; `update(samples)` draws it. The number beside it is its text alternative. */
export function sparkline() {
  const [width, height] = [88, 20];
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line" });
  const element = svg(
    "svg",
    { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" },
    area,
    line,
  );
  return {
    element,
    update(samples) {
      if (!samples) return;
      const drawn = lines(samples, "lag_seconds", {
        width,
        height,
        top: Math.max(2, most(samples, "lag_seconds")),
        now: Date.now(),
      });
      attribute(line, "d", drawn.line);
      attribute(area, "d", drawn.area);
    },
  };
}

/** A plot with a scale; it shows the value under the pointer. */
export function chart({ key, title, format, isBytes }) {
  const [width, height] = [600, 120];
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line" });
  const cursor = svg("line", { class: "cursor", y1: 0, y2: height, visibility: "hidden" });
  const grid = [0.25, 0.5, 0.75].map((part) =>
    svg("line", { class: "grid", x1: 0, x2: width, y1: height * part, y2: height * part }),
  );
  const image = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img" },
    ...grid,
    area,
    line,
    cursor,
  );
  const top = h("span", { class: "top" });
  const said = h("span", { class: "said" });
  const element = h(
    "figure",
    { class: "chart" },
    h("figcaption", null, h("span", null, title), said),
    h("div", { class: "plot" }, image, top),
    h("div", { class: "axis", "aria-hidden": "true" }, h("span", null, "5 min ago"), h("span", null, "now")),
  );
  let drawn = [];
  const now = () => {
    const last = drawn.at(-1);
    return last
      ? `${last[key] === null ? "unknown" : format(last[key])} now, at most ${format(most(drawn, key))}`
      : "";
  };
  image.addEventListener("pointermove", (event) => {
    const box = image.getBoundingClientRect();
    const part = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const at = Date.now() - SPAN * (1 - part);
    const sample = drawn.findLast((candidate) => candidate.at <= at);
    attribute(cursor, "x1", (part * width).toFixed(1));
    attribute(cursor, "x2", (part * width).toFixed(1));
    attribute(cursor, "visibility", "visible");
    const ago = `${Math.round((Date.now() - at) / 1000)} s ago`;
    text(said, !sample || sample[key] === null ? `unknown ${ago}` : `${format(sample[key])} ${ago}`);
  });
  image.addEventListener("pointerleave", () => {
    attribute(cursor, "visibility", "hidden");
    text(said, now());
  });
  const update = (samples) => {
    drawn = samples ?? [];
    const scale = ceiling(most(drawn, key), isBytes);
    const path = lines(drawn, key, { width, height, top: scale, now: Date.now() });
    attribute(line, "d", path.line);
    attribute(area, "d", path.area);
    text(top, format(scale));
    attribute(image, "aria-label", `${title}, last five minutes: ${now() || "no data yet"}`);
    if (cursor.getAttribute("visibility") === "hidden") text(said, now());
  };
  // The page may lose its connection before the first samples arrive. The image needs its label then, too.
  update();
  return { element, update };
}
