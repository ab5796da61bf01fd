// Keyboard only: every control is reachable with a visible focus, and Escape goes back.

import assert from "node:assert/strict";
import { test } from "node:test";
import { shows, until, visit } from "./lib.js";

/** A short description of the focused element. */
const focused = (page) =>
  page.evaluate(
    () =>
      document.activeElement.textContent.trim() ||
      document.activeElement.getAttribute("aria-label") ||
      document.activeElement.id,
  );
const focusBecomes = (page, wanted) => until(`the focus is on ${wanted}`, async () => wanted.test(await focused(page)));

async function isSeen(page) {
  const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outline);
  assert.match(outline, /solid 2px/, await focused(page));
}

test("tab visits every control in page order with a visible focus", () =>
  visit("#/", async (page) => {
    await shows(page, "tbody a.row", "acme");
    const passed = [];
    for (let count = 0; count < 40; count++) {
      await page.keyboard.press("Tab");
      if (await page.evaluate(() => document.activeElement === document.body)) break;
      await isSeen(page);
      passed.push(await focused(page));
    }
    const wanted = [
      /^Skip/,
      /^users-sync/,
      /^Shortcuts/,
      /^All/,
      /^Needs attention/,
      /^Following/,
      /^Joining/,
      /^Parked/,
      /^Paused/,
      /^Unknown/,
      /^Search/,
      /^State/,
      /^Tenant/,
      /^Lag/,
      /^acme$/,
      /^Users of acme/,
    ];
    let at = 0;
    for (const word of passed) if (wanted[at]?.test(word)) at += 1;
    assert.equal(at, wanted.length, `${wanted[at]} was not reached: ${passed.join(" | ")}`);
  }));

test("the first tab stop skips to the content", () =>
  visit("#/", async (page) => {
    await shows(page, "tbody a.row", "acme");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "view");
  }));

test("from the search to a user's profile and back by keyboard", () =>
  visit("#/", async (page) => {
    await shows(page, "tbody a.row", "hooli");
    await page.keyboard.press("/");
    await page.keyboard.type("acm");
    await until("only acme is left", async () => (await page.locator("tbody a.row").count()) === 1);
    await page.keyboard.press("ArrowDown");
    await focusBecomes(page, /^acme$/);
    await isSeen(page);
    await page.keyboard.press("u");
    await shows(page, ".users tbody a.row", /./);
    await focusBecomes(page, /^acme$/);
    await page.keyboard.press("j");
    const first = await focused(page);
    await page.keyboard.press("j");
    assert.notEqual(await focused(page), first);
    await page.keyboard.press("k");
    assert.equal(await focused(page), first);
    await page.keyboard.press("Enter");
    await shows(page, ".profile pre", "primary_email");
    assert.equal(await page.evaluate(() => document.activeElement.closest(".profile") !== null), true);
    await page.keyboard.press("Escape");
    await page.locator(".profile").waitFor({ state: "hidden" });
    assert.equal(await focused(page), first);
    await page.keyboard.press("Escape");
    await shows(page, ".tenants tbody a.row", "acme");
    await focusBecomes(page, /^acme$/);
  }));

test("arrow keys, Home and End move through the rows", () =>
  visit("#/", async (page) => {
    await shows(page, "tbody a.row", "hooli");
    const names = await page.locator("tbody a.row").allTextContents();
    for (const [key, wanted] of [
      ["ArrowDown", 0],
      ["ArrowDown", 1],
      ["End", names.length - 1],
      ["ArrowUp", names.length - 2],
      ["Home", 0],
      ["ArrowUp", 0],
    ]) {
      await page.keyboard.press(key);
      assert.equal(await focused(page), names[wanted], key);
    }
    await page.keyboard.press("Enter");
    await shows(page, "h1", names[0]);
    await page.keyboard.press("Escape");
    await focusBecomes(page, new RegExp(`^${names[0]}$`));
  }));

test("a dialog keeps the focus, and Escape closes it and restores the focus", () =>
  visit("#/tenants/acme", async (page) => {
    await shows(page, ".chart", "now");
    for (const name of ["Verify", "Resync"]) {
      const button = page.getByRole("button", { name });
      await button.focus();
      await page.keyboard.press("Enter");
      await page.locator("dialog[open]").waitFor();
      for (let count = 0; count < 6; count++) {
        await page.keyboard.press("Tab");
        const place = await page.evaluate(
          () => document.activeElement === document.body || document.activeElement.closest("dialog") !== null,
        );
        assert(place, await focused(page));
      }
      await page.keyboard.press("Escape");
      await page.locator("dialog[open]").waitFor({ state: "hidden" });
      await focusBecomes(page, new RegExp(`^${name}`));
    }
    await page.keyboard.press("?");
    await shows(page, "dialog[open]", "Shortcuts");
    await page.keyboard.press("Escape");
    assert.equal(page.url().endsWith("#/tenants/acme"), true);
  }));

test("Escape clears the search, then leaves it", () =>
  visit("#/?q=acme", async (page) => {
    await shows(page, "tbody a.row", "acme");
    await page.keyboard.press("/");
    await page.keyboard.press("Escape");
    await shows(page, "tbody a.row", "hooli");
    assert.equal(await page.locator("input.search").inputValue(), "");
    await page.keyboard.press("Escape");
    assert.equal(await page.evaluate(() => document.activeElement === document.body), true);
  }));
