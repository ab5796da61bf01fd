#!/usr/bin/env bash
# Better Auth's own tables by its own migrations (what `npx auth migrate` runs), with the plugins that add
# columns to the user or tables beside it.
set -euo pipefail

# shellcheck source=tests/providers/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_node 20
npm_install better-auth
export BETTER_AUTH_TELEMETRY=0

cat >"$WORK/better-auth/migrate.js" <<'JAVASCRIPT'
import { getMigrations } from "better-auth/db/migration";
import { admin, anonymous, organization, phoneNumber, twoFactor, username } from "better-auth/plugins";
import pg from "pg";

const database = new pg.Pool({ connectionString: process.env.DATABASE_URL });
const { runMigrations, toBeCreated } = await getMigrations({
  database,
  secret: "no session is ever made with this secret",
  baseURL: "http://localhost",
  emailAndPassword: { enabled: true },
  plugins: [organization(), admin(), anonymous(), username(), phoneNumber(), twoFactor()],
});
await runMigrations();
console.log("made:", toBeCreated.map(({ table }) => table).join(", "));
await database.end();
JAVASCRIPT
(cd "$WORK/better-auth" && node migrate.js)
