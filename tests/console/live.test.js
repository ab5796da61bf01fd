// Open pages show changes at the source and the targets without a reload.
// acme has 130 users, u1 to u130; globex has three, and a target that can be made unreachable.

import assert from "node:assert/strict";
import { test } from "node:test";
import { CONSOLE, control, isSound, shows, until, visit } from "./lib.js";

const row = (page, text) => page.locator("tbody tr").filter({ hasText: text }).first();
const tenant = (page, name) => page.locator(`tbody[data-tenant="${name}"]`);
const mood = (page, name) => tenant(page, name).getAttribute("data-mood");
const says = (page, name) => tenant(page, name).locator(".what").textContent();

/** Red, green and blue of an element's text. */
const colour = async (locator) =>
  (await locator.evaluate((element) => getComputedStyle(element).color)).match(/\d+/g).map(Number);

test("a user who signs up, changes and is deleted at the source does so on the open page", () =>
  visit("#/tenants/acme/users", async (page) => {
    await shows(page, "tbody a.row", "Ann 1");
    await page.evaluate(() => (window.stayed = true));
    await control(
      "sql/auth",
      "INSERT INTO auth.users (id, org, first_name, last_name, email) VALUES ('zoe', 'acme', 'Zoe', 'Zimmer', 'zoe@example.com')",
    );
    await row(page, "Zoe Zimmer").getByText("zoe@example.com").waitFor();
    await control("sql/auth", "UPDATE auth.users SET last_name = 'Young', updated_at = now() WHERE id = 'zoe'");
    await row(page, "Zoe Young").waitFor();
    assert.equal(await page.locator("tbody tr").filter({ hasText: "zoe@example.com" }).count(), 1);
    await page.getByText("Zoe Young").click();
    await shows(page, ".profile pre", '"display_name": "Zoe Young"');
    await control("sql/auth", "UPDATE auth.users SET first_name = 'Zora', updated_at = now() WHERE id = 'zoe'");
    await shows(page, ".profile pre", '"display_name": "Zora Young"');
    await control("sql/auth", "DELETE FROM auth.users WHERE id = 'zoe'");
    await page.locator("tr.gone").filter({ hasText: "Zora Young" }).waitFor();
    assert.equal(await page.evaluate(() => window.stayed), true);
  }));

test("users who signed up while the page was hidden appear when it is visible again", () =>
  visit("#/tenants/acme/users", async (page) => {
    await shows(page, "tbody a.row", "Ann 1");
    await shows(page, "#connection", "live");
    const look = (hidden) =>
      page.evaluate((hidden) => {
        Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
        document.dispatchEvent(new Event("visibilitychange"));
      }, hidden);
    await look(true);
    await control("sql/auth", "INSERT INTO auth.users (id, org, first_name) VALUES ('a-while-ago', 'acme', 'Wendy')");
    await until("she has arrived", async () => {
      const answer = await page.request.get(`${CONSOLE}/api/tenants/acme/users/a-while-ago`);
      return answer.ok();
    });
    assert.equal(await row(page, "Wendy").count(), 0);
    await look(false);
    await row(page, "Wendy").waitFor();
    await control("sql/auth", "DELETE FROM auth.users WHERE id = 'a-while-ago'");
    await page.locator("tr.gone").filter({ hasText: "Wendy" }).waitFor();
  }));

test("users of another tenant, or that do not match the search, do not appear", () =>
  visit("#/tenants/acme/users?search=ann 12", async (page) => {
    await shows(page, "tbody a.row", "Ann 120");
    const before = await page.locator("tbody tr").count();
    await control(
      "sql/auth",
      `INSERT INTO auth.users (id, org, first_name, email) VALUES ('y1', 'globex', 'Ann 12 of globex', null), ('y2', 'acme', 'Yves', null);
       INSERT INTO auth.users (id, org, first_name, email) VALUES ('y3', 'acme', 'Ann 12345', null)`,
    );
    await row(page, "Ann 12345").waitFor();
    assert.equal(await page.locator("tbody tr").count(), before + 1);
    await control("sql/auth", "DELETE FROM auth.users WHERE id IN ('y1', 'y2', 'y3')");
  }));

test("paging forward and back shows every user", () =>
  visit("#/tenants/acme/users?deleted=false", async (page) => {
    const seen = new Set();
    const next = page.getByRole("button", { name: "Next" });
    for (let number = 1; ; number++) {
      await shows(page, ".pager", `Page ${number}`);
      await page.locator("tbody a.row").first().waitFor();
      await until("the page is read", () => page.evaluate(() => document.querySelector(".loading") === null));
      for (const id of await page.locator("tbody td.id").allTextContents()) seen.add(id);
      if (await next.isDisabled()) break;
      await next.click();
    }
    const wanted = Array.from({ length: 130 }, (_, index) => `u${index + 1}`);
    assert.deepEqual(
      wanted.filter((id) => !seen.has(id)),
      [],
    );
    await page.getByRole("button", { name: "Previous" }).click();
    await shows(page, ".pager", "Page 2");
  }));

test("a profile is shown as text, with its numbers unchanged", async () => {
  await control(
    "sql/auth",
    `INSERT INTO auth.users (id, org, first_name, email, profile) VALUES ('a/b?c#d', 'acme', '<img src=x onerror=alert(1)>',
     '<b>@example.com', '{"big": 9007199254740993123, "fraction": 1.10, "markup": "</code><script>alert(1)</script>"}')`,
  );
  await visit(`#/tenants/acme/users/${encodeURIComponent("a/b?c#d")}`, async (page) => {
    page.on("dialog", (dialog) => assert.fail(dialog.message()));
    await shows(page, ".profile h2", "<img src=x onerror=alert(1)>");
    const text = await page.locator(".profile pre").textContent();
    for (const part of [
      '"big": 9007199254740993123',
      '"fraction": 1.10',
      '"markup": "</code><script>alert(1)</script>"',
    ])
      assert(text.includes(part), text);
    assert.equal(await page.locator(".profile img, .profile b, tbody img").count(), 0);
    assert(!text.includes("encrypted_password"), text);
  });
  await control("sql/auth", "DELETE FROM auth.users WHERE id = 'a/b?c#d'");
});

test("a tenant turns red with the reason while its target is down, and green again afterwards", () =>
  visit("#/", async (page) => {
    await until("globex is following", async () => (await mood(page, "globex")) === "following");
    const [red, green] = await colour(tenant(page, "globex").locator("span.state"));
    assert(green > red, "following is green");
    await control("away/globex");
    await control("sql/auth", "UPDATE auth.users SET last_name = 'Away', updated_at = now() WHERE org = 'globex'");
    await until("globex is parked", async () => (await mood(page, "globex")) === "parked");
    assert.match(await says(page, "globex"), /cannot reach .*globex/);
    assert.notEqual(await tenant(page, "globex").locator(".remedy").textContent(), "");
    const mark = tenant(page, "globex").locator("span.state");
    assert.match(await mark.textContent(), /parked/);
    const [more, less] = await colour(mark);
    assert(more > less, "parked is red");
    await until("the title shows it", async () => (await page.title()).startsWith("(1 parked)"));
    assert.equal(await page.locator("tbody a.row").first().textContent(), "globex", "tenants with errors come first");
    await page.getByRole("button", { name: "Needs attention" }).click();
    await until("only globex needs attention", async () =>
      (await page.locator("tbody a.row").allTextContents()).join() === "globex",
    );
    await shows(page, "#summary .fault", /globex.*How to fix/);
    await shows(page, "#summary .fault", /since .* UTC/);
    await page.locator(".choices [data-name='']").click();
    assert.match(await page.locator("#announcements").textContent(), /globex is parked/);
    await control("back/globex");
    await until("globex is following again", async () => (await mood(page, "globex")) === "following");
    assert.equal(await tenant(page, "globex").locator(".trouble").count(), 0);
    await until("the title is normal again", async () => (await page.title()).startsWith("Tenants"));
  }));

test("a verification asks for confirmation, lists the differences, and repairs them", () =>
  visit("#/tenants/acme", async (page) => {
    const verify = async (repair) => {
      await page.getByRole("button", { name: "Verify" }).click();
      if (repair) await page.getByLabel("Repair differences").check();
      await page.locator("#question-yes").click();
      await page.locator(".job .finished, .job .fault").first().waitFor();
      return page.locator(".job").textContent();
    };
    await page.getByRole("button", { name: "Verify" }).click();
    await page.getByRole("button", { name: "Cancel" }).click();
    assert.equal(await page.locator(".job").textContent(), "");
    assert.match(await verify(false), /equal/);
    await control(
      "sql/acme",
      `UPDATE neon_auth.users_sync SET raw_json = raw_json || '{"display_name": "Changed"}', name = 'Changed' WHERE id = 'u7'`,
    );
    await page.getByRole("button", { name: "Dismiss" }).click();
    assert.match(await verify(false), /1 user differs/);
    await page.locator(".ids a", { hasText: "u7" }).click();
    await shows(page, ".profile pre", '"display_name": "Changed"');
    await page.goBack();
    await page.getByRole("button", { name: "Dismiss" }).click();
    assert.match(await verify(true), /equal/);
    await page.goto(`${page.url()}/users/u7`);
    await shows(page, ".profile pre", '"display_name": "Ann 7"');
  }));

test("a resync asks for confirmation, and ends with the tenant following", () =>
  visit("#/tenants/acme", async (page) => {
    await control("sql/acme", "DELETE FROM neon_auth.users_sync WHERE id = 'u9'");
    await page.getByRole("button", { name: "Resync" }).click();
    await shows(page, "dialog[open]", "acme");
    await page.locator("#question-yes").click();
    await shows(page, ".finished", "Resync is done");
    await shows(page, ".head .state", "following");
    await page.goto(page.url() + "/users/u9");
    await shows(page, ".profile pre", '"display_name": "Ann 9"');
  }));

test("pausing and resuming ask first, say what will happen, and are done by keyboard", () =>
  visit("#/tenants/hooli", async (page) => {
    await shows(page, ".head .state", "following");
    await page.getByRole("button", { name: "Pause" }).focus();
    await page.keyboard.press("Enter");
    await shows(page, "dialog[open]", "Nothing is written to the target of hooli");
    await isSound(page, "the question before a pause");
    // A reason is required.
    await page.keyboard.press("Enter");
    assert.equal(await page.locator("dialog[open]").count(), 1);
    await page.keyboard.type("moving the database");
    await page.keyboard.press("Enter");
    await shows(page, ".head .state", "paused");
    await shows(page, "main .fault", "moving the database");
    await page.getByRole("button", { name: "Resume" }).click();
    await shows(page, "dialog[open]", "continues where it was");
    await page.keyboard.press("Escape");
    await page.locator("dialog[open]").waitFor({ state: "hidden" });
    await shows(page, ".head .state", "paused");
    await page.getByRole("button", { name: "Resume" }).click();
    await page.locator("#question-yes").click();
    await shows(page, ".head .state", "following");
  }));

test("rejected users are listed with their reason, and tried again on request", () =>
  visit("#/tenants/acme", async (page) => {
    await until("the users are counted", async () =>
      /^\d+$/.test(await page.locator(".facts div", { hasText: /^Users/ }).locator("dd").textContent()),
    );
    await control("sql/acme", "ALTER TABLE neon_auth.users_sync ADD CONSTRAINT no_eve CHECK (name <> 'Eve Evil')");
    await control(
      "sql/auth",
      "INSERT INTO auth.users (id, org, first_name, last_name, updated_at) VALUES ('eve', 'acme', 'Eve', 'Evil', now())",
    );
    await shows(page, ".rejects tbody tr", /eve.*no_eve.* UTC/);
    await isSound(page, "rejected users");
    await page.getByRole("button", { name: "Try again" }).click();
    await shows(page, "dialog[open]", "read from the source and written to its target");
    await isSound(page, "the question before a retry");
    // Only now can she be written: the tenant also retries on its own, and the list and its button would disappear.
    await control("sql/acme", "ALTER TABLE neon_auth.users_sync DROP CONSTRAINT no_eve");
    await page.locator("#question-yes").click();
    await page.locator(".rejects").waitFor({ state: "hidden" });
    await page.goto(`${page.url()}/users/eve`);
    await shows(page, ".profile pre", '"display_name": "Eve Evil"');
    await control("sql/auth", "DELETE FROM auth.users WHERE id = 'eve'");
    await page.locator("tr.gone").filter({ hasText: "Eve Evil" }).waitFor();
  }));

test("sign-ups of the last hour and events are shown, of all tenants and of one", () =>
  visit("#/tenants/acme", async (page) => {
    await shows(page, ".timeline li", "Joined");
    await control(
      "sql/auth",
      "INSERT INTO auth.users (id, org, first_name, created_at) VALUES ('newcomer', 'acme', 'Nina', now())",
    );
    await until("she is counted", async () => {
      const answer = await (await page.request.get(`${CONSOLE}/api/activity?tenant=acme`)).json();
      return answer.minutes.some(({ sign_ups }) => sign_ups > 0);
    });
    await page.reload();
    await page.getByRole("img", { name: /^Sign-ups per minute: [1-9]\d* in the last hour/ }).waitFor();
    await control("sql/auth", "DELETE FROM auth.users WHERE id = 'newcomer'");
    await page.getByRole("link", { name: "Events" }).click();
    await shows(page, ".timeline li[data-kind=joined]", /acme joined/);
    await shows(page, ".timeline time", / UTC/);
  }));

test("users are shown newest first with their number, and are sorted by any column", () =>
  visit("#/tenants/acme/users?deleted=false", async (page) => {
    const first = async () => (await page.locator("tbody td.id").allTextContents())[0];
    await until("the newest is first", async () => (await first()) === "u130");
    await shows(page, ".tools", "130 users");
    assert.match(await page.locator("tbody td.created").first().textContent(), /2026-01-01 \d\d:\d\d UTC/);
    for (const [name, wanted, sort] of [
      ["Created", "u1", "ascending"],
      ["Created", "u130", "descending"],
      ["Name", "u1", "ascending"],
      ["Name", "u99", "descending"],
      ["Id", "u1", "ascending"],
    ]) {
      await page.locator("thead").getByRole("button", { name, exact: true }).click();
      await until(`${name} is ${sort}`, async () =>
        (await page.locator(`th[aria-sort=${sort}]`).allTextContents()).join() === name,
      );
      await until(`${wanted} is first`, async () => (await first()) === wanted);
    }
    await page.reload();
    await until("a reload keeps the order", async () => (await first()) === "u1");
  }));

test("a running job is shown again after a reload", () =>
  visit("#/tenants/acme", async (page) => {
    const held = control("sql/acme", "BEGIN; LOCK TABLE neon_auth.users_sync; SELECT pg_sleep(600)").catch(() => {});
    const holds = "WHERE query LIKE 'BEGIN; LOCK%' AND wait_event = 'PgSleep'";
    await until("the table is locked", () =>
      control("sql/acme", `SELECT 1 / count(*) FROM pg_stat_activity ${holds}`).then(
        () => true,
        () => false,
      ),
    );
    await page.getByRole("button", { name: "Verify" }).click();
    await page.locator("#question-yes").click();
    await shows(page, ".job .running", "Verification is running");
    await page.reload();
    await shows(page, ".job .running", "Verification is running");
    await control("sql/acme", `SELECT pg_terminate_backend(pid) FROM pg_stat_activity ${holds}`);
    await held;
    await shows(page, ".finished", "Verification is done");
  }));

test("the plots have a text alternative before their samples arrive", () =>
  visit("#/", async (page) => {
    await page.route("**/api/tenants/acme", () => {});
    await page.goto(`${CONSOLE}/#/tenants/acme`);
    await shows(page, "figure.chart", "Lag (WAL)");
    await isSound(page, "no samples");
  }));

test("the open page reports that the process is down, and continues once it is back", () =>
  visit(
    "#/tenants/acme",
    async (page) => {
      await shows(page, "#connection", "live");
      await control("stop");
      await shows(page, "#connection", "not connected");
      await shows(page, "#lost", "check that the process is running");
      await page.locator("#summary[data-stale]").waitFor();
      await isSound(page, "not connected");
      await control("start");
      await shows(page, "#connection", "live");
      await page.locator("#lost").waitFor({ state: "detached" });
      await shows(page, ".head .state", "following");
    },
    { allowed: /ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE/ },
  ));
