#!/usr/bin/env bash
# Django's own user tables: `migrate auth` of a project that has only django.contrib.auth.
set -euo pipefail

# shellcheck source=tests/providers/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need python3 "Python 3.10 or later"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "python3 is too old; install Python 3.10 or later"
pip_install django

"$WORK/django/bin/python" - <<'PYTHON'
import os

import django
from django.conf import settings
from django.core.management import call_command
from psycopg.conninfo import conninfo_to_dict

server = conninfo_to_dict(os.environ["DATABASE_URL"])
settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": server.pop("dbname"),
            "OPTIONS": server,
        }
    },
    # As startproject writes it; the link tables follow it, auth_user does not.
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()
call_command("migrate", "auth", interactive=False)
PYTHON
