#!/usr/bin/env bash
# Keycloak's own tables: its server, started once on an empty database, which runs its changelogs.
set -euo pipefail

KEYCLOAK=26.7.3
SHA256=27a6535553c3cdcd083872ba40629efafb3475e3b758e0c6f691395561dd0f1f

# shellcheck source=tests/providers/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need_psql
need java "Java 17 or later (Debian: default-jre-headless)"
need mvn "Maven (Debian: maven)"
home="$WORK/keycloak-$KEYCLOAK"
if [ ! -x "$home/bin/kc.sh" ]; then
  mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy -DoutputDirectory="$WORK" \
    -Dartifact="org.keycloak:keycloak-quarkus-dist:$KEYCLOAK:zip" </dev/null >&2 || fail "Maven could not fetch Keycloak $KEYCLOAK"
  echo "$SHA256  $WORK/keycloak-quarkus-dist-$KEYCLOAK.zip" | sha256sum --check --quiet >&2 ||
    fail "the archive of Keycloak $KEYCLOAK has another SHA-256 than this script"
  (cd "$WORK" && rm -rf "keycloak-$KEYCLOAK" && (unzip -q "keycloak-quarkus-dist-$KEYCLOAK.zip" 2>/dev/null ||
    jar xf "keycloak-quarkus-dist-$KEYCLOAK.zip")) || fail "the archive cannot be unpacked; install unzip"
  rm -f "$WORK/keycloak-quarkus-dist-$KEYCLOAK.zip"
  chmod +x "$home/bin/kc.sh"
fi
echo "installed: Keycloak $KEYCLOAK"

# postgres://user[:password]@host:port/database[?...] as the JDBC driver wants it.
rest=${DATABASE_URL#*://}
login=${rest%%@*}
place=${rest#*@}
export KC_DB=postgres KC_DB_URL="jdbc:postgresql://${place%%\?*}" KC_DB_USERNAME="${login%%:*}"
case "$login" in *:*) export KC_DB_PASSWORD="${login#*:}" ;; *) export KC_DB_PASSWORD=none ;; esac
export KC_HTTP_HOST=127.0.0.1 KC_HTTP_PORT=0 KC_HTTP_MANAGEMENT_PORT=0 KC_CACHE=local
export KC_BOOTSTRAP_ADMIN_USERNAME=admin KC_BOOTSTRAP_ADMIN_PASSWORD=admin
log="$WORK/keycloak.log"
"$home/bin/kc.sh" start-dev >"$log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true' EXIT
for _ in $(seq 300); do
  if grep -q "Listening on:" "$log"; then
    "$PSQL" -X -q -c 'SELECT FROM user_entity LIMIT 0' "$DATABASE_URL" >/dev/null || fail "Keycloak made no user_entity"
    exit 0
  fi
  kill -0 "$server" 2>/dev/null || fail "Keycloak ended: $(tail -n 3 "$log")"
  sleep 1
done
fail "Keycloak did not start: $(tail -n 3 "$log")"
