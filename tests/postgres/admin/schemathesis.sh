#!/usr/bin/env bash
# Fuzzes a running server against its own OpenAPI description. Given: URL, TOKEN, TENANT (one that is there), WORK (a
# directory for downloads, kept between runs).
set -euo pipefail

# Versions and hashes of all packages: uv pip compile --universal --generate-hashes --python-version 3.11
REQUIREMENTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/schemathesis.txt
# For each of two runs: with any tenant, and with the one that is there.
BUDGET=25

fail() {
  echo "schemathesis.sh: $*" >&2
  exit 1
}

: "${URL:?where the server listens}" "${TOKEN:?its token}" "${TENANT:?a tenant}" "${WORK:?a directory}"
command -v python3 >/dev/null 2>&1 || fail "python3 is missing; install Python 3.11 or later (.ci/setup stores does)"
if ! cmp -s "$WORK/.installed" "$REQUIREMENTS"; then
  rm -rf "$WORK"
  python3 -m venv "$WORK" >&2 || fail "python3 cannot make a virtual environment; install python3-venv (.ci/setup stores does)"
  "$WORK/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --require-hashes \
    --requirement "$REQUIREMENTS" </dev/null >&2 || fail "pip could not install the packages of $REQUIREMENTS"
  cp "$REQUIREMENTS" "$WORK/.installed"
fi

cd "$WORK"
# No request waits for users that never arrive. The second run uses the existing tenant, so that it finds data.
cat >any.toml <<TOML
[parameters]
wait = "0s"
TOML
cat >tenant.toml <<TOML
[parameters]
wait = "0s"
tenant = "$TENANT"
TOML
for config in any tenant; do
  # Events go on for ever: they have a test of their own.
  bin/schemathesis --config-file "$config.toml" run "$URL/api/openapi.json" --header "Authorization: Bearer $TOKEN" \
    --checks all --exclude-path /api/events --max-time "$BUDGET" --seed 1 --no-color --request-timeout 20 --warnings off
done
