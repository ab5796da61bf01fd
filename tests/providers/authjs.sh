#!/usr/bin/env bash
# Auth.js (NextAuth): the tables that @auth/drizzle-adapter defines, made with Drizzle's own export. The package of
# @auth/pg-adapter has no schema, only queries; its tables stand in the documentation alone.
set -euo pipefail

# shellcheck source=tests/providers/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_node 20
need_psql
npm_install authjs

cat >"$WORK/authjs/schema.js" <<'JAVASCRIPT'
// By its path: the package does not export this file. What a project gets that gives the adapter no tables.
import { defineTables } from "./node_modules/@auth/drizzle-adapter/lib/pg.js";

export const { usersTable, accountsTable, sessionsTable, verificationTokensTable, authenticatorsTable } = defineTables();
JAVASCRIPT
drizzle_make "$WORK/authjs" schema.js
