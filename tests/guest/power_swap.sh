#!/bin/sh
# Inside a minimal guest whose power is cut while releases follow one another: exactly one generation serves after the next
# boot, the one on record, and then releases are swapped, rolled back and restarted without end, or until the next cut.
#
#     power_swap.sh IMAGE SECONDS
#
# The cut is SECONDS after the first change has begun, never with 0; the file `at` names the change that was under way, the
# file `cut` says that it is time.
set -eu
# shellcheck source=tests/guest/shell.sh
. ./shell.sh
image=$1 seconds=$2

one_cgroup() { is "$(leaf web | wc -l)" 1; }
# Of what the cut left, the record says which one serves.
serves() {
    until_true 100 answers 8080 / && until_true 50 is "$(state web)" running && one_cgroup
}
if [ -e /var/lib/opsrun/services/web ]; then
    check "one generation serves after the cut, and no other" serves
    check "the record names it" is "$(opsrun inspect web | sed -n 's/^ *"generation": \([0-9]*\),*$/\1/p' | head -n 1)" \
        "$(leaf web | sed 's/.*-g//')"
    check "the history can be read" opsrun history web
    echo "    $(column web 2) serves as generation $(column web 8)"
else
    check "a load" opsrun load "$image"
    check "the same as another release" opsrun load --tag busybox:2 "$image"
    web_service web 8080
    check "start" opsrun start web:1
    check "enable" opsrun enable web
    printf '#!/bin/sh\n/usr/local/bin/opsrun boot > /var/log/boot 2>&1\n' > /etc/rc.start
    chmod +x /etc/rc.start
fi
# A cut may have left what a release in vain was given.
echo "listen=127.0.0.1:8080" > /opt/web/conf/busybox.conf
check "a restart" opsrun restart web
check "which serves" serves
if [ "$seconds" = 0 ]; then
    check "stop" opsrun stop web
    check "nothing is left" until_true 5 none_left
    exit 0
fi

sync
step() { echo "$1" > ./at; }
change() {
    while :; do
        step swap
        opsrun swap web 2 --soak 1s
        step rollback
        opsrun rollback web --soak 1s
        step "swap in vain"
        echo "exit 7" >> /opt/web/conf/busybox.conf
        opsrun swap web 2 --soak 1s || :
        echo "listen=127.0.0.1:8080" > /opt/web/conf/busybox.conf
        step "stop-first swap"
        opsrun swap web 2 --soak 1s --stop-first
        step restart
        opsrun restart web
        opsrun swap web 1 --soak 0s
    done
}
change > /tmp/changes 2>&1 &
busybox sleep "$seconds"
touch cut
exec busybox sleep 1000
