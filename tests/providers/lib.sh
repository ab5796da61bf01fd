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

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# installed DIRECTORY LOCK_FILE: whether exactly these packages were installed there by an earlier run.
installed() {
  cmp -s "$1/.installed" "$2"
}

# npm_install NAME: a project of ES modules in $WORK/NAME with the packages of NAME/package-lock.json beside this file.
# npm compares every package with the hash in that file.
npm_install() {
  local from=$HERE/$1 directory=$WORK/$1
  mkdir -p "$directory"
  if ! installed "$directory" "$from/package-lock.json"; then
    rm -rf "$directory/node_modules" "$directory/.installed"
    cp "$from/package.json" "$from/package-lock.json" "$directory"
    (cd "$directory" && npm ci --no-audit --no-fund --no-progress --loglevel=error </dev/null >&2) ||
      fail "npm could not install the packages of $from/package-lock.json"
    cp "$from/package-lock.json" "$directory/.installed"
  fi
  echo "installed: $1"
}

# pip_install NAME: a virtual environment in $WORK/NAME with the packages of NAME/requirements.txt beside this file, whose
# hashes pip requires.
pip_install() {
  local from=$HERE/$1/requirements.txt directory=$WORK/$1
  if ! installed "$directory" "$from"; then
    rm -rf "$directory"
    python3 -m venv "$directory" >&2 || fail "python3 cannot make a virtual environment; install python3-venv"
    "$directory/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --require-hashes \
      --requirement "$from" </dev/null >&2 || fail "pip could not install the packages of $from"
    cp "$from" "$directory/.installed"
  fi
  echo "installed: $1"
}

# drizzle_make DIRECTORY SCHEMA_FILE: makes the tables that a Drizzle schema describes, after need_psql.
drizzle_make() {
  (cd "$1" && node_modules/.bin/drizzle-kit export --dialect=postgresql --schema="$2" </dev/null >schema.sql) ||
    fail "drizzle-kit could not export $1/$2"
  grep -q '^CREATE TABLE' "$1/schema.sql" || fail "drizzle-kit exported no table: $1/schema.sql"
  "$PSQL" -X -q -v ON_ERROR_STOP=1 --single-transaction -f "$1/schema.sql" "$DATABASE_URL"
  echo "made: $(sed -n 's/^CREATE TABLE "\([^"]*\)".*/\1/p' "$1/schema.sql" | paste -s -d ' ' -)"
}
