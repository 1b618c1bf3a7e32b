#!/bin/sh
# Serves /www until SIGTERM.
# shellcheck source=/dev/null
. /etc/busybox/busybox.conf
echo "listening on ${listen:?}"
exec httpd -f -p "${listen:?}" -h /www
