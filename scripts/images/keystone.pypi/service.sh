#!/bin/sh
# Serves keystone's API on port 5000 until SIGTERM, on which it finishes the requests under way and ends.
# exec, so that uWSGI gets the signal and not this shell. keystone's module reads sys.argv, which uWSGI leaves empty.
exec uwsgi --plugin python3 --virtualenv /opt/keystone \
    --http-socket :5000 --buffer-size 65535 --add-header 'Connection: close' \
    --module keystone.wsgi.api:application --need-app --lazy-apps \
    --master --processes 2 --enable-threads --threads 2 --thunder-lock \
    --die-on-term --hook-master-start 'unix_signal:15 gracefully_kill_them_all' --worker-reload-mercy 60 \
    --skip-atexit-teardown
