// Every view, in light, in the dark and on a phone: axe-core finds nothing, and nothing sticks out of the screen.
// acme has users, hooli has none, and globex's target is away.

import assert from "node:assert/strict";
import { test } from "node:test";
import { SCREENS, control, isSound, shows, visit } from "./lib.js";

const VIEWS = {
  "all tenants": ["#/", (page) => shows(page, "tbody a.row", "acme")],
  "tenants that need attention": ["#/?state=attention", (page) => shows(page, ".trouble .what", /./)],
  "no tenant found": ["#/?q=nobody", (page) => shows(page, ".empty", "No tenant is like that")],
  "a tenant": ["#/tenants/acme", (page) => shows(page, ".chart .said", "now")],
  "a tenant in trouble": ["#/tenants/globex", (page) => shows(page, ".fault", "What mends it")],
  "no such tenant": ["#/tenants/nobody", (page) => shows(page, ".empty", "no such tenant")],
  users: ["#/tenants/acme/users", (page) => shows(page, "tbody a.row", /./)],
  "a profile": ["#/tenants/acme/users/u1", (page) => shows(page, "pre", "primary_email")],
  "users of no such tenant": ["#/tenants/nobody/users", (page) => shows(page, "[role=alert] .what", "no such tenant")],
  "no such user": ["#/tenants/acme/users/nobody", (page) => shows(page, ".profile", "no such user")],
  "no users": ["#/tenants/hooli/users", (page) => shows(page, ".empty", "No users yet")],
  "users of a target that is away": ["#/tenants/globex/users", (page) => shows(page, "[role=alert] .what", /./)],
  "no such page": ["#/nowhere", (page) => shows(page, ".empty", "no such page")],
  "a question": [
    "#/tenants/acme",
    async (page) => {
      await page.getByRole("button", { name: "Resync" }).click();
      await shows(page, "dialog[open]", "Allow mass deletes");
    },
  ],
  "the keys": [
    "#/",
    async (page) => {
      await page.getByRole("button", { name: "Keys" }).click();
      await shows(page, "dialog[open]", "next and previous row");
    },
  ],
};

/** To another view, once the one before is gone. */
const goes = (page, hash) =>
  page.evaluate((hash) => {
    const gone = new Promise((resolve) => addEventListener("hashchange", resolve, { once: true }));
    location.hash = hash;
    return gone.then(() => null);
  }, hash);

test("globex is away for all of this", async () => {
  await control("away/globex");
  await control("sql/auth", "UPDATE auth.users SET last_name = 'Away', updated_at = now() WHERE org = 'globex'");
  await visit("#/tenants/globex", (page) => shows(page, ".head .state", "parked"));
});

for (const [mode, screen] of Object.entries(SCREENS)) {
  test(`every view, ${mode}`, () =>
    visit(
      "#/nowhere",
      async (page) => {
        for (const [name, [hash, there]] of Object.entries(VIEWS)) {
          await goes(page, hash);
          await there(page);
          await isSound(page, `${name}, ${mode}`);
          if (await page.locator("dialog[open]").count()) await page.keyboard.press("Escape");
        }
      },
      { screen, allowed: /404|503/ },
    ));
}

test("dark is dark, and light is light", async () => {
  const ground = async (screen) => {
    let colour;
    await visit(
      "#/",
      async (page) => (colour = await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor)),
      { screen },
    );
    return colour.match(/\d+/g).reduce((sum, part) => sum + Number(part), 0);
  };
  assert((await ground(SCREENS.dark)) < 100);
  assert((await ground(SCREENS.light)) > 650);
});

test("and back again", () => control("back/globex"));
