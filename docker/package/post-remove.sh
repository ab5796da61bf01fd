#!/bin/sh
# A purge (deb only) deletes the configuration, the spool and the account. A removal keeps them.
set -e
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
if [ "$1" = purge ]; then
    rm -rf /etc/users-sync /var/lib/users-sync
    if getent passwd users-sync >/dev/null; then userdel users-sync; fi
fi
