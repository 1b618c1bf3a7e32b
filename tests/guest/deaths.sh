#!/bin/sh
# Inside a Debian guest: a service that writes numbered lines as fast as it can while its supervisor is killed and becomes
# another program, again and again; and a supervisor that dies while the service is stopped. With `clients`, also clients who wait
# for a service whose supervisor dies.
#
#     deaths.sh KILLS [clients]
set -eu
# shellcheck source=tests/guest/shell.sh
. ./shell.sh
kills=$1
unit=opsrun@web.service
show() { systemctl show --property "$1" --value "$unit"; }
# The supervisor alone: `systemctl kill` ends what systemd runs after it, too.
die() { kill -9 "$(show MainPID)"; }
active() { systemctl is-active --quiet "$unit"; }

check "install" env OPSRUN_BINARY=/usr/local/bin/opsrun ./install
check "load" opsrun load busybox-1.tar
# All that is ever written is kept, so that it can be looked at from the first line on.
web_service web 8080 'log = { max_size = "1m", max_files = 1000 }'
cat >> /opt/web/conf/busybox.conf <<'END'
(i=0; while :; do i=$((i+1)); echo "o $i"; echo "e $i" >&2; done) &
END
check "start" opsrun start web:1
container=$(process web)
first=$(supervisor web)
same() { is "$(process web) $(state web)" "$container running" && active; }

# Who has taken over says so, and is the unit's main process.
taken_over() {
    now=$(supervisor web) && [ -n "$now" ] && [ "$now" != "$first" ] && [ "$(show MainPID)" = "$now" ] &&
        [ "$(show StatusText)" = "web 1: running, healthy" ]
}
# Outputs, the log's cursor and its second pipe, the end of process 1, its binds, what it listens with: no more and no less.
stored=$(show NFileDescriptorStore)
check "systemd keeps what must outlive a supervisor" is "$stored" 7

cp /usr/local/bin/opsrun ./a
cp /usr/local/bin/opsrun ./b
becomes() {
    first=$(supervisor web)
    opsrun reexec web --program "$1" || return
    is "$(supervisor web) $(readlink "/proc/$first/exe") $(show MainPID)" "$first $(realpath "$1") $first" && same &&
        is "$(show NFileDescriptorStore)" "$stored"
}
kill_one() {
    first=$(supervisor web)
    die && until_true 30 taken_over && same && is "$(show NFileDescriptorStore)" "$stored"
}
check "reexec: the same process, unit and container, and all is kept" becomes ./a
number=0
while [ "$number" -lt "$kills" ]; do
    number=$((number + 1))
    check "kill $number" kill_one
    if [ $((number % 2)) = 0 ]; then check "and another program" becomes ./b; fi
    if [ $((number % 4)) = 0 ]; then check "which is killed at once" kill_one; fi
done
restarts() { opsrun inspect web | sed -n 's/^ *"restarts": \([0-9]*\),*$/\1/p' | head -n 1; }
check "not one restart of the service" is "$(restarts)" 0
check "it answers" answers 8080 /

echo '#!/bin/sh
echo "no library of mine" >&2; exit 1' > broken
chmod +x broken
first=$(supervisor web)
check "a program that could not go on is refused" refused "no library of mine" opsrun reexec web --program ./broken
check "and nothing changes" is "$(supervisor web) $(show MainPID)" "$first $first"
check "of the service either" same
# One that is right until it is to supervise. systemd starts what is installed, and nothing is cleared away.
# shellcheck disable=SC2016 # for the script to expand
printf '#!/bin/sh\ncase $2 in --prove) exec /usr/local/bin/opsrun "$@";; esac; exit 1\n' > broken
check "one that ends as soon as it is to supervise is told of" refused "the program before does" \
    opsrun reexec web --program ./broken
check "systemd starts the one that is installed" until_true 30 taken_over
check "and the container runs on" same

check "stop" opsrun stop web
files() { find /var/log/opsrun/web -name '1.log*' | sed 's/.*1\.log\.*//' | sort -rn; }
all() { for age in $(files) ''; do cat "/var/log/opsrun/web/1.log${age:+.$age}"; done; }
numbered() { all | awk -f numbered.awk > lines || { cat lines; return 1; }; }
check "no line is lost, doubled or torn" numbered
check "in several files" test "$(files | wc -l)" -gt 2
echo "    $(cat lines) of the two streams in $(files | wc -l) files, $kills kills"
check "nothing is left" until_true 5 none_left

# Clients who connect when the service has crashed, or is between two releases, and its supervisor dies over that. This server
# closes its port at once when it is asked to end, and ends when it is let go.
stopping() { [ "$(state web)" = stopping ]; }
begin_load() {
    rm -f enough load failed
    python3 load.py 8080 2 100 &
    load=$!
}
# What the server had begun when it was killed is lost with it.
nobody_was_refused() {
    touch enough
    wait "$load" || return
    cat failed
    fails grep -e refused -e 'timed out' failed && fails grep '^0 answers' load
}
clients_wait() {
    echo "listen=127.0.0.1:8080" > /opt/web/conf/busybox.conf
    cat >> /opt/web/conf/busybox.conf <<'END'
httpd -f -p "$listen" -h /www &
server=$!
trap 'kill $server; until test -e /var/lib/busybox/go; do sleep 0.1; done; exit 0' TERM
wait
wait
END
    check "the same as another release" opsrun load --tag busybox:2 busybox-1.tar
    check "start" opsrun start web:1
    begin_load
    container=$(process web)
    first=$(supervisor web)
    kill -STOP "$first"
    kill -9 "$container" || :
    check "service and supervisor are killed" die
    up_again() { is "$(state web)" running && [ "$(process web)" != "$container" ] && taken_over; }
    check "the next supervisor has started it again" until_true 60 up_again
    check "who connected meanwhile has waited" nobody_was_refused
    echo "    a crash and a dead supervisor: $(cat load)"

    # Without the same ports there is no steering, but the one that both have is kept.
    sed 's/^ports = .*/ports = [8080, 8081]/' /etc/opsrun/web.toml > two
    cat two > /etc/opsrun/web.toml
    begin_load
    container=$(process web)
    first=$(supervisor web)
    opsrun swap web 2 --soak 1s > swapped 2>&1 &
    swap=$!
    check "the old release is asked to end" until_true 60 stopping
    check "the supervisor is killed" die
    wait "$swap" || :
    check "it was gated" grep -q "waits to take its port" swapped
    touch /opt/web/lib/go
    check "the next supervisor has started the old release again" until_true 60 up_again
    check "which is the only one" is "$(column web 2) $(leaf web | wc -l)" "1 1"
    check "who connected meanwhile has waited" nobody_was_refused
    echo "    a gated swap and a dead supervisor: $(cat load)"
    check "stop" opsrun stop web
    check "nothing is left" until_true 5 none_left
}
if [ "${2:-}" = clients ]; then clients_wait; fi

# Slow to end, so that a supervisor can be killed meanwhile. The next one asks once more, since it cannot know whether the one
# before it came to that.
echo "listen=127.0.0.1:8080" > /opt/web/conf/busybox.conf
cat >> /opt/web/conf/busybox.conf <<'END'
trap 'trap "" TERM; sleep 6; echo "ended as it wanted"; exit' TERM
httpd -f -p "$listen" -h /www &
wait
wait
END
down() { is "$(state web) $(systemctl is-active $unit) $(show Result)" "stopped inactive success" && none_left; }
as_it_wanted() { opsrun logs web | grep 'ended as it wanted'; }
stays_down() {
    until_true 30 down || { down; return 1; }
    busybox sleep 1
    down
}
check "start" opsrun start web
opsrun stop web > stopped 2>&1 &
check "opsrun stop has begun" until_true 20 stopping
check "the supervisor is killed" die
check "the command says how it ended" wait $!
check "the next supervisor has stopped it" stays_down
check "as it wanted" as_it_wanted

# The service ends meanwhile, and so does the command: there is nobody but systemd to know what was asked for.
check "start" opsrun start web
container=$(process web)
opsrun stop web > stopped 2>&1 &
asker=$!
check "opsrun stop has begun" until_true 20 stopping
kill -STOP "$(supervisor web)"
# The service may be faster.
kill -9 "$asker" "$container" || :
check "command, service and supervisor are killed" die
check "it is not started again" stays_down
check "which systemctl start does" systemctl start "$unit"
check "it runs" is "$(state web)" running

systemctl stop "$unit" &
check "systemctl stop has begun" until_true 20 stopping
kill -STOP "$(supervisor web)"
check "the supervisor is killed, and none comes after it" die
check "systemctl stop comes to its end" wait $!
gone() { is "$(state web)" stopped && fails active && none_left; }
check "nothing runs any more" until_true 20 gone
check "the service ended as it wanted" test "$(opsrun logs web | grep -c 'ended as it wanted')" -ge 1
check "start" opsrun start web
container=$(process web)
systemctl restart "$unit" &
check "systemctl restart has begun" until_true 20 stopping
check "the supervisor is killed" die
check "systemctl restart comes to its end" wait $!
check "the service runs" until_true 30 is "$(state web)" running
check "in another container, the only one" is "$(leaf web | wc -l)" 1
check "stop" opsrun stop web
check "nothing is left" until_true 5 none_left
