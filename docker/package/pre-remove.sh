#!/bin/sh
# Stops the service when the package is removed (deb: "remove", rpm: 0), not when it is upgraded.
set -e
case "$1" in
    remove | 0)
        if [ -d /run/systemd/system ]; then systemctl disable --now users-sync.service; fi
        if [ -e /etc/users-sync/users-sync.yaml ]; then
            echo "users-sync: the replication slot stays at the source and keeps WAL. \`users-sync teardown\` drops it." >&2
        fi
        ;;
esac
