// If the API requires a token, the page prompts for it and keeps it in this tab only.

import assert from "node:assert/strict";
import { test } from "node:test";
import { isSound, shows, visit } from "./lib.js";

const TOKEN = process.env.TOKEN;
const allowed = /401/;

const give = async (page, token) => {
  await page.locator("#token-input").fill(token);
  await page.keyboard.press("Enter");
};

test("the page prompts once, rejects a wrong token, and shows the tenants with the right one", () =>
  visit(
    "#/",
    async (page) => {
      await page.locator("dialog[open]").waitFor();
      assert.equal(await page.locator("dialog[open]").count(), 1);
      await isSound(page, "the token");
      assert.equal(await page.locator("tbody a.row").count(), 0);
      await give(page, "wrong");
      await shows(page, "dialog[open] [role=alert]", "Invalid token");
      await isSound(page, "a wrong token");
      await give(page, TOKEN);
      await shows(page, "tbody a.row", "acme");
      await shows(page, "#connection", "live");
      const kept = await page.evaluate(() => [
        { ...sessionStorage },
        { ...localStorage },
        document.cookie,
        document.body.innerHTML,
      ]);
      assert.deepEqual(Object.values(kept[0]), [TOKEN]);
      assert.deepEqual([kept[1], kept[2]], [{}, ""]);
      assert(!kept[3].includes(TOKEN) && !page.url().includes(TOKEN));
      await page.reload();
      await shows(page, "tbody a.row", "acme");
      await page.getByRole("button", { name: "Forget" }).click();
      await page.locator("dialog[open]").waitFor();
      assert.deepEqual(await page.evaluate(() => ({ ...sessionStorage })), {});
    },
    { allowed },
  ));

test("a cancelled prompt shows an error, and the token can be entered later", () =>
  visit(
    "#/tenants/acme/users",
    async (page) => {
      await page.locator("dialog[open]").waitFor();
      await page.keyboard.press("Escape");
      const again = page.getByRole("button", { name: "Enter token" }).first();
      await again.waitFor();
      await isSound(page, "no token");
      await again.click();
      await give(page, TOKEN);
      await shows(page, "#connection", "live");
    },
    { allowed },
  ));
