#!/usr/bin/env bash
# Logto's own tables: @logto/schemas has them as SQL files, @logto/cli loads them in the right order with the
# triggers and the row-level security (what `logto db seed` does first; the alterations are for older databases).
set -euo pipefail

# shellcheck source=tests/providers/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_node 20
npm_install logto

cat >"$WORK/logto/migrate.js" <<'JAVASCRIPT'
import { createTables } from "@logto/cli/lib/commands/database/seed/tables.js";
import { getDatabaseName } from "@logto/cli/lib/queries/database.js";
import { createInterceptorsPreset, createPool, sql } from "@silverhand/slonik";

const pool = await createPool(process.env.DATABASE_URL, { interceptors: createInterceptorsPreset() });
await pool.transaction(async (connection) => {
  await createTables(connection, false);
  // Upstream makes a role for the whole server and grants it the tables. No policy names it; without it a
  // dump of the tables loads on any server, and the next database of this name can be filled too.
  const role = sql.raw(`logto_tenant_${await getDatabaseName(connection, true)}`);
  await connection.query(sql`drop owned by ${role}`);
  await connection.query(sql`drop role ${role}`);
});
await pool.end();
JAVASCRIPT
(cd "$WORK/logto" && node migrate.js)
