// Starts the headless Chromium that is installed.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { chromium } from "playwright-core";

function executable() {
  const names = ["chromium", "chromium-browser", "google-chrome"];
  const places = names.flatMap((name) => process.env.PATH.split(delimiter).map((directory) => join(directory, name)));
  const found = [process.env.CHROMIUM, ...places, chromium.executablePath()].find((place) => place && existsSync(place));
  assert(found, "Chromium is missing: install Debian's package chromium, or set CHROMIUM to its path");
  return found;
}

// Disable everything that makes requests other than to the page's own server.
const QUIET = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-background-networking",
  "--no-first-run",
  "--disable-component-update",
  "--disable-sync",
];

export const launch = () => chromium.launch({ executablePath: executable(), args: QUIET });
