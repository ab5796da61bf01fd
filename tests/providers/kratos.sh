#!/usr/bin/env bash
# Ory Kratos's own tables: the SQL migrations of its Go module, in the order and the choice of dialect of its migrator.
set -euo pipefail

KRATOS=v1.3.1

# shellcheck source=tests/providers/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_psql
need go "Go 1.21 or later (Debian: golang-go)"
mkdir -p "$WORK/kratos"
cd "$WORK/kratos"
# Only the module's files: nothing is built.
directory=$(go mod download -json "github.com/ory/kratos@$KRATOS" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
[ -d "$directory" ] || fail "go could not download github.com/ory/kratos@$KRATOS"
echo "installed: github.com/ory/kratos@$KRATOS"

# A version's file for PostgreSQL goes before the one for all.
migrations="$directory/persistence/sql/migrations/sql"
for version in $(ls "$migrations" | grep '\.up\.sql$' | cut -d _ -f 1 | sort -u); do
  for file in "$migrations/$version"_*.postgres.up.sql "$migrations/$version"_*.up.sql; do
    case "$file" in
    *\**) continue ;;
    *.postgres.up.sql | *[a-z0-9].up.sql) ;;
    esac
    case "$(basename "$file")" in
    *.cockroach.up.sql | *.mysql.up.sql | *.sqlite3.up.sql) continue ;;
    esac
    cat "$file"
    echo
    echo ";"
    break
  done
done >migrations.sql
"$PSQL" -X -q -v ON_ERROR_STOP=1 -f migrations.sql "$DATABASE_URL" >/dev/null
