// Writes a picture of the page of `users-sync demo --stay`: node picture.js URL FILE. `.ci/picture` runs it.

import assert from "node:assert/strict";
import { launch } from "./browser.js";

const [url, file] = process.argv.slice(2);
assert(url && file, "usage: node picture.js URL FILE");
const browser = await launch();
try {
  const viewport = { width: 1280, height: 720 };
  const page = await browser.newPage({ viewport, colorScheme: "light", reducedMotion: "reduce" });
  await page.goto(url);
  await page.locator("#rows tr").first().waitFor();
  const change = async (form, first, last) => {
    await page.locator(`${form} [name=first_name]`).fill(first);
    await page.locator(`${form} [name=last_name]`).fill(last);
    await page.locator(`${form} .primary`).click();
    await page.locator("#last[data-kind=done]").filter({ hasText: `${first} ${last}` }).waitFor();
  };
  await change("#sign-up", "Hedy", "Kiesler");
  await page.locator("#people tr").filter({ hasText: "Kiesler" }).getByText("Rename").click();
  await change("#rename", "Hedy", "Lamarr");
  await page.locator("#rows tr").filter({ hasText: "Hedy Lamarr" }).waitFor();
  await page.mouse.move(0, 0);
  await page.evaluate(() => document.activeElement.blur());
  await page.screenshot({ path: file });
} finally {
  await browser.close();
}
