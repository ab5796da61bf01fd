#!/bin/sh
# Creates the account. A running service is restarted after an upgrade; a new one is not started, because it has no
# configuration.
set -e
if ! getent passwd users-sync >/dev/null; then
    useradd --system --user-group --no-create-home --home-dir /var/lib/users-sync --shell /usr/sbin/nologin users-sync
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl try-restart users-sync.service
fi
