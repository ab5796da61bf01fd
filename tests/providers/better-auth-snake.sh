#!/usr/bin/env bash
# Better Auth's tables as a project with Drizzle gets them: Better Auth's CLI generates the Drizzle schema, whose
# column names are snake_case unless asked otherwise, and Drizzle makes the tables. The same plugins as better-auth.sh.
set -euo pipefail

# shellcheck source=tests/providers/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_node 20
need_psql
npm_install better-auth-snake
export BETTER_AUTH_TELEMETRY=0

cat >"$WORK/better-auth-snake/auth.js" <<'JAVASCRIPT'
import { betterAuth } from "better-auth";
import { drizzleAdapter } from "better-auth/adapters/drizzle";
import { admin, anonymous, organization, phoneNumber, twoFactor, username } from "better-auth/plugins";

export const auth = betterAuth({
  database: drizzleAdapter({}, { provider: "pg" }),
  logger: { disabled: true }, // It would call the schema that is about to be generated missing.
  secret: "no session is ever made with this secret",
  baseURL: "http://localhost",
  emailAndPassword: { enabled: true },
  plugins: [organization(), admin(), anonymous(), username(), phoneNumber(), twoFactor()],
});
JAVASCRIPT
# The CLI asks for Node.js 22 for the sake of its Prisma part, which calls this one function when it is loaded.
cat >"$WORK/better-auth-snake/node20.js" <<'JAVASCRIPT'
Object.groupBy ??= (items, key) => {
  const groups = Object.create(null);
  for (const item of items) (groups[key(item)] ??= []).push(item);
  return groups;
};
JAVASCRIPT
(
  cd "$WORK/better-auth-snake"
  rm -f schema.ts
  node --import ./node20.js node_modules/auth/dist/index.mjs generate --yes --config auth.js --output schema.ts </dev/null >&2
) || fail "Better Auth's CLI could not generate the schema"
drizzle_make "$WORK/better-auth-snake" schema.ts
