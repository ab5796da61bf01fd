# What the scripts beside this file share; they source it first.
# A script is given DATABASE_URL (an empty database, as superuser) and WORK (a directory kept between runs).

fail() {
  echo "$(basename "$0" .sh): $*" >&2
  exit 1
}

: "${DATABASE_URL:?the postgres:// URL of an empty database}" "${WORK:?a directory for downloads, kept between runs}"
export DATABASE_URL
[ -d "$WORK" ] || fail "WORK is not a directory: $WORK"

# need PROGRAM WHAT_TO_INSTALL
need() {
  command -v "$1" >/dev/null 2>&1 || fail "$1 is missing; install $2"
}

# Node.js of at least this major version, with npm.
need_node() {
  need node "Node.js $1 or later"
  need npm "npm (it comes with Node.js)"
  local major
  major=$(node -p 'process.versions.node.split(".")[0]')
  [ "$major" -ge "$1" ] || fail "Node.js $major is too old; install Node.js $1 or later"
}

# Finds psql, on PATH or where Debian puts it.
need_psql() {
  PSQL=$(command -v psql || ls -d /usr/lib/postgresql/*/bin/psql 2>/dev/null | sort -V | tail -n 1) || true
  [ -n "$PSQL" ] || fail "psql is missing; install postgresql-client"
}

# installed DIRECTORY PACKAGE...: whether exactly these were installed there by an earlier run.
installed() {
  local directory=$1
  shift
  [ "$(cat "$directory/.installed" 2>/dev/null)" = "$*" ]
}

# npm_install DIRECTORY PACKAGE@VERSION...: a project of ES modules with these packages.
npm_install() {
  local directory=$1
  shift
  mkdir -p "$directory"
  if ! installed "$directory" "$@"; then
    rm -rf "$directory/node_modules" "$directory/package-lock.json" "$directory/.installed"
    echo '{ "name": "provider", "private": true, "type": "module" }' >"$directory/package.json"
    (cd "$directory" && npm install --save-exact --no-audit --no-fund --no-progress --loglevel=error "$@" </dev/null >&2) ||
      fail "npm could not install $*"
    echo "$*" >"$directory/.installed"
  fi
  echo "installed: $*"
}

# pip_install DIRECTORY PACKAGE==VERSION...: a virtual environment with these packages.
pip_install() {
  local directory=$1
  shift
  if ! installed "$directory" "$@"; then
    rm -rf "$directory"
    python3 -m venv "$directory" >&2 || fail "python3 cannot make a virtual environment; install python3-venv"
    "$directory/bin/python" -m pip install --quiet --no-input --disable-pip-version-check "$@" </dev/null >&2 ||
      fail "pip could not install $*"
    echo "$*" >"$directory/.installed"
  fi
  echo "installed: $*"
}

# drizzle_make DIRECTORY SCHEMA_FILE: makes the tables that a Drizzle schema describes, after need_psql.
drizzle_make() {
  (cd "$1" && node_modules/.bin/drizzle-kit export --dialect=postgresql --schema="$2" </dev/null >schema.sql) ||
    fail "drizzle-kit could not export $1/$2"
  grep -q '^CREATE TABLE' "$1/schema.sql" || fail "drizzle-kit exported no table: $1/schema.sql"
  "$PSQL" -X -q -v ON_ERROR_STOP=1 --single-transaction -f "$1/schema.sql" "$DATABASE_URL"
  echo "made: $(sed -n 's/^CREATE TABLE "\([^"]*\)".*/\1/p' "$1/schema.sql" | paste -s -d ' ' -)"
}
