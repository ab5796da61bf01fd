// Shared by the browser tests: a headless Chromium, pages that must not log errors, and the channel to the Rust test
// that controls the servers.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before } from "node:test";
import { launch } from "./browser.js";

/** URL of the console. */
export const CONSOLE = process.env.CONSOLE_URL;
const CONTROL = process.env.CONTROL_URL;
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
/** Deadline in milliseconds for an expected change, far longer than it takes. */
export const DEADLINE = 60_000;

let browser;

before(async () => {
  browser = await launch();
});
after(() => browser?.close());

export const SCREENS = {
  light: { colorScheme: "light", viewport: { width: 1280, height: 800 } },
  dark: { colorScheme: "dark", viewport: { width: 1280, height: 800 } },
  phone: { colorScheme: "light", viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true },
  "phone in the dark": { colorScheme: "dark", viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true },
};

/** Runs `visitor(page)` on a fresh page. Errors and warnings of the page fail the test, except those that match `allowed`. */
export async function visit(hash, visitor, { screen = SCREENS.light, allowed = null } = {}) {
  const context = await browser.newContext({ ...screen, reducedMotion: "reduce" });
  context.setDefaultTimeout(DEADLINE);
  const complaints = [];
  const page = await context.newPage();
  page.on("pageerror", (error) => complaints.push(error.stack));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !allowed?.test(message.text()))
      complaints.push(message.text());
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(CONSOLE)) complaints.push(`request to another origin: ${request.url()}`);
  });
  try {
    await page.goto(`${CONSOLE}/${hash}`);
    await visitor(page);
    assert.deepEqual(complaints, []);
  } finally {
    await context.close();
  }
}

/** Asks the Rust test to run SQL in a database, or to make a target unreachable. */
export async function control(path, body = "") {
  const response = await fetch(`${CONTROL}/${path}`, { method: "POST", body });
  assert(response.ok, `${path}: ${await response.text()}`);
}

/** Waits until an element that matches `selector` contains `text`. */
export const shows = (page, selector, text) => page.locator(selector).filter({ hasText: text }).first().waitFor();

/** Waits until `look()` returns a true value. */
export async function until(what, look) {
  for (const deadline = Date.now() + DEADLINE; ;) {
    if (await look()) return;
    assert(Date.now() < deadline, `timed out: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Asserts that axe-core finds no violation on the page and that the page fits its screen. */
export async function isSound(page, name) {
  await page.evaluate(AXE);
  const found = await page.evaluate(async () => {
    const { violations } = await window.axe.run(document, { resultTypes: ["violations"] });
    return violations.flatMap(({ id, nodes }) =>
      nodes.map(({ html, failureSummary }) => `${id}: ${html} ${failureSummary}`),
    );
  });
  assert.deepEqual(found, [], name);
  const tooWide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  assert(tooWide <= 0, `${name} is ${tooWide} pixels too wide`);
}
