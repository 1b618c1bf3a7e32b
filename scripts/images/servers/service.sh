#!/bin/sh
# Serves by the server that the configuration names.
set -eua
# shellcheck source=/dev/null
. /etc/servers/servers.conf
cd /servers
listen=${address:?}:${port:?}
case ${server:?} in
apache) exec apache2 -D FOREGROUND -f /servers/apache.conf ;;
eventlet) exec python3 eventlet_server.py ;;
gunicorn) exec gunicorn --workers 2 --bind "$listen" application ;;
gunicorn-gthread) exec gunicorn --workers 2 --worker-class gthread --threads 8 --keep-alive 5 --bind "$listen" application ;;
nginx)
    sed "s/@listen@/$listen/; s/@word@/${word:?}/" nginx.conf > /tmp/nginx.conf
    exec nginx -c /tmp/nginx.conf
    ;;
# It closes each connection after one answer, and should say so.
uwsgi)
    exec uwsgi --plugin python3 --http-socket "$listen" --add-header 'Connection: close' --module application --need-app \
        --lazy-apps --master --processes 2 --die-on-term --disable-logging
    ;;
*) echo "no such server: $server" >&2; exit 1 ;;
esac
