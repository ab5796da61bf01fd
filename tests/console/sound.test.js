// Every view, light, dark and on a phone: axe-core finds no violation, and the page fits the screen.
// acme has users, hooli has none, and globex's target is unreachable.

import assert from "node:assert/strict";
import { test } from "node:test";
import { SCREENS, control, isSound, shows, visit } from "./lib.js";

const VIEWS = {
  "all tenants": ["#/", (page) => shows(page, "tbody a.row", "acme")],
  "tenants that need attention": ["#/?state=attention", (page) => shows(page, ".trouble .what", /./)],
  "no tenant found": ["#/?q=absent", (page) => shows(page, ".empty", "No matching tenants")],
  "a tenant": ["#/tenants/acme", (page) => shows(page, ".chart .said", "now")],
  "a tenant in trouble": ["#/tenants/globex", (page) => shows(page, "main .fault", "How to fix")],
  "no such tenant": ["#/tenants/absent", (page) => shows(page, ".empty", "No such tenant")],
  users: ["#/tenants/acme/users", (page) => shows(page, "tbody a.row", /./)],
  "a profile": ["#/tenants/acme/users/u1", (page) => shows(page, "pre", "primary_email")],
  "users of no such tenant": ["#/tenants/absent/users", (page) => shows(page, "[role=alert] .what", "no such tenant")],
  "no such user": ["#/tenants/acme/users/absent", (page) => shows(page, ".profile", "no such user")],
  "no users": ["#/tenants/hooli/users", (page) => shows(page, ".empty", "No users yet")],
  "users of an unreachable target": ["#/tenants/globex/users", (page) => shows(page, "[role=alert] .what", /./)],
  "No such page": ["#/nowhere", (page) => shows(page, ".empty", "No such page")],
  "the events": ["#/events", (page) => shows(page, ".timeline li", /globex was parked/)],
  "the API": [
    "#/api",
    async (page) => {
      await shows(page, ".operation", "/api/tenants/{tenant}/users");
      await page.locator(".operation summary").nth(5).click();
    },
  ],
  "a question": [
    "#/tenants/acme",
    async (page) => {
      await page.getByRole("button", { name: "Resync" }).click();
      await shows(page, "dialog[open]", "Allow mass deletes");
    },
  ],
  "the shortcuts": [
    "#/",
    async (page) => {
      await page.getByRole("button", { name: "Shortcuts" }).click();
      await shows(page, "dialog[open]", "next and previous row");
    },
  ],
};

/** Goes to another view, after the previous one has closed. */
const goes = (page, hash) =>
  page.evaluate((hash) => {
    const gone = new Promise((resolve) => addEventListener("hashchange", resolve, { once: true }));
    location.hash = hash;
    return gone.then(() => null);
  }, hash);

test("globex is unreachable during these tests", async () => {
  await control("away/globex");
  await control("sql/auth", "UPDATE auth.users SET last_name = 'Away', updated_at = now() WHERE org = 'globex'");
  // The page counts users at the target until the tenant is parked.
  await visit("#/tenants/globex", (page) => shows(page, ".head .state", "parked"), { allowed: /503/ });
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

test("dark mode is dark, and light mode is light", async () => {
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

test("globex is reachable again", () => control("back/globex"));
