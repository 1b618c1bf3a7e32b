#!/bin/sh
# Inside a Debian guest: real servers, which nobody has prepared for opsrun, follow one another under a light load, and no
# client fails; nor does one for a candidate that is no good, or when the supervisor dies in the middle.
#
#     steered.sh SWAPS SERVER...
set -eu
# shellcheck source=tests/guest/shell.sh
. ./shell.sh
swaps=$1
shift
port=18080

configure() {
    printf 'server=%s\naddress=127.0.0.1\nport=%s\nword=%s\ndelay=0\nwarm=0\nfails_after=0\nfails=%s\n' \
        "$server" "$port" "$1" "${2:-}" > /opt/servers/conf/servers.conf
}
says() { answers "$port" / && is "$(cat /tmp/answer)" "$1"; }
one_serves() { until_true 60 is "$(state servers)" running && until_true 30 one_leaf; }
one_leaf() { is "$(leaf servers | wc -l)" 1; }
other_release() { if [ "$(column servers 2)" = 1 ]; then echo 2; else echo 1; fi; }
# The way is said, and it is the one that loses nothing.
steered() { grep -q 'can be steered' said || { cat said; return 1; }; }

begin_load() {
    rm -f enough load failed
    python3 load.py "$port" 2 100 &
    load=$!
}
none_failed() {
    touch enough
    wait "$load"
    is "$(cat failed)" "" && grep -q ' 0 failed' load
}

swap() {
    configure "$1"
    opsrun swap servers "$(other_release)" --soak 1s > said 2>&1 || { cat said; return 1; }
    steered && says "$1"
}

# Kills the supervisor when the swap that is under way has come to this event.
killed_at() {
    before=$(supervisor servers)
    opsrun events servers > told
    known=$(wc -l < told)
    opsrun swap servers "$(other_release)" --soak 3s > said 2>&1 &
    swap=$!
    until_true 60 happened "$1" || return
    kill -9 "$before"
    # Whatever it says: it may have been done, or not.
    wait "$swap" || :
    until_true 60 followed && one_serves && one_leaf
}
happened() { opsrun events servers | tail -n "+$((known + 1))" | grep -q " $1 "; }
followed() { now=$(supervisor servers) && [ -n "$now" ] && [ "$now" != "$before" ]; }

check "install" env OPSRUN_BINARY=/usr/local/bin/opsrun ./install
check "load" opsrun load servers-1.tar
check "the same as another release" opsrun load --tag servers:2 servers-1.tar
steering() { opsrun doctor | grep '^good  *swap ' || { opsrun doctor; return 1; }; }
check "doctor says that no request is lost here" steering
mkdir -p /opt/servers/conf /etc/opsrun
cat > /etc/opsrun/servers.toml <<END
ports = [$port]
health = { check = "http", path = "/", interval = "1s", timeout = "10s", start_timeout = "120s" }
END

for server in "$@"; do
    configure 0
    check "$server: start" opsrun start servers:1
    begin_load
    number=0
    while [ "$number" -lt "$swaps" ]; do
        number=$((number + 1))
        check "$server: swap $number" swap "$number"
    done
    check "$server: one generation is left" one_serves
    check "$server: no request failed" none_failed
    echo "    $server, $swaps swaps: $(cat load)"

    begin_load
    configure bad /
    check "$server: a candidate that answers 500 is not put in place" \
        refused "500" opsrun swap servers "$(other_release)" --soak 1s --timeout 5s
    check "$server: the one before serves" says "$number"
    configure "$number"
    for moment in started swapped; do
        check "$server: the supervisor is killed when the candidate has $moment, and one serves" killed_at "$moment"
        check "$server: and answers" answers "$port" /
    done
    check "$server: no request failed" none_failed
    echo "    $server, a bad candidate and two dead supervisors: $(cat load)"
    if opsrun swap --help | grep -q -e --canary; then
        begin_load
        configure canary
        check "$server: a share first" opsrun swap servers "$(other_release)" --canary 50% --for 10s --soak 1s
        check "$server: then all" says canary
        check "$server: no request failed" none_failed
        echo "    $server, a canary: $(cat load)"
    fi
    check "$server: stop" opsrun stop servers
done
check "nothing is left" until_true 5 none_left
