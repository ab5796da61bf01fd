// The page of `users-sync demo --stay`: both tables follow a visitor's changes, and what visitors type stays text.

import assert from "node:assert/strict";
import { test } from "node:test";
import { isSound, SCREENS, shows, visit } from "./lib.js";

const HOSTILE = `<img src=x onerror="document.title='owned'"> "quoted"`;

const fill = async (form, first, last) => {
  await form.locator("[name=first_name]").fill(first);
  await form.locator("[name=last_name]").fill(last);
  await form.locator("[type=submit]").click();
};

const gone = (page, selector, text) => page.locator(selector).filter({ hasText: text }).first().waitFor({ state: "detached" });

test("a sign-up, a new name and a delete reach both tables, with the time that they took", () =>
  visit("demo", async (page) => {
    await shows(page, "#connection", "live");
    await fill(page.locator("#sign-up"), HOSTILE, "Kiesler");
    await shows(page, "#last[data-kind=done]", /signed up: visible in acme after \d+\.\d ms/);
    await shows(page, "#people tr", HOSTILE);
    await shows(page, "#rows tr", `${HOSTILE} Kiesler`);
    assert.equal(await page.locator("tbody img").count(), 0);
    assert.equal(await page.title(), "users-sync demo");

    await page.locator("#people tr").filter({ hasText: HOSTILE }).getByText("Rename").click();
    await page.locator("dialog[open]").waitFor();
    await isSound(page, "the dialog");
    await fill(page.locator("#rename"), "Hedy", "Lamarr");
    await shows(page, "#last[data-kind=done]", "renamed to Hedy Lamarr");
    await shows(page, "#people tr", "Lamarr");
    await shows(page, "#rows tr", "Hedy Lamarr");

    await page.locator("#people tr").filter({ hasText: "Lamarr" }).getByText("Delete").click();
    await shows(page, "#last[data-kind=done]", "Hedy Lamarr deleted");
    await gone(page, "#people tr", "Lamarr");
    await shows(page, "#rows tr.gone", "Hedy Lamarr");
  }));

test("a change of another page is shown without a reload, and a refused one with its reason", () =>
  visit(
    "demo",
    async (page) => {
      await shows(page, "#connection", "live");
      await page.evaluate(async () => {
        const body = JSON.stringify({ organization: "globex", first_name: "Radia", last_name: "Perlman" });
        await fetch("demo/sign-up", { method: "POST", headers: { "content-type": "application/json" }, body });
      });
      await shows(page, "#rows tr", "Radia Perlman");
      await fill(page.locator("#sign-up"), " ", "Blank");
      await shows(page, "#last[data-kind=refused]", "1 to 100 characters");
    },
    { allowed: /422/ },
  ));

for (const [name, screen] of Object.entries(SCREENS))
  test(`the page is accessible and fits: ${name}`, () =>
    visit(
      "demo",
      async (page) => {
        await shows(page, "#rows tr", "acme");
        await isSound(page, name);
      },
      { screen },
    ));
