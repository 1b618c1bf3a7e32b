#!/bin/sh
# Inside a Debian guest: opsrun and systemctl do the same to a service and agree on it afterwards; nothing that is done to
# a supervisor's unit touches its container; limits hold in the container's scope.
set -eu
# shellcheck source=tests/guest/shell.sh
. ./shell.sh
unit=opsrun@web.service
active() { systemctl is-active --quiet "$unit"; }
failed() { systemctl is-failed --quiet "$unit"; }
wanted() { is "$(sed -n 's/.*"wanted": "\(.*\)".*/\1/p' /var/lib/opsrun/services/web/record.json)" "$1"; }
cgroup_of() { cut -d : -f 3 "/proc/$1/cgroup"; }
scopes() { find /sys/fs/cgroup/opsrun.slice -type d -name '*.scope' | wc -l; }

OPSRUN_BINARY=/usr/local/bin/opsrun check "install" ./install
check "load" opsrun load busybox-1.tar
web_service web 8080

check "a service that never was is no unit to start" fails systemctl start opsrun@nothing
check "opsrun start" opsrun start web:1 --memory 64m --cpus 0.9 --pids-limit 60
check "the unit is up when the command returns" active
check "the unit is of no login session" test "$(cgroup_of "$(supervisor web)")" = "/system.slice/system-opsrun.slice/$unit"
case $(cgroup_of "$(process web)") in
/opsrun.slice/opsrun-web-g1-*.scope/web-g1) echo "ok the container has a scope of its own" ;;
*) check "the container has a scope of its own" false ;;
esac
limits() { echo "$(value web memory.max) $(value web cpu.max) $(value web pids.max)"; }
check "with its limits" is "$(limits)" "67108864 90000 100000 60"
check "its status says release and health" sh -c "systemctl status $unit | grep -q 'Status: \"web 1: running, healthy'"
check "exec" sh -c 'opsrun exec web cat /proc/self/cgroup | grep -q opsrun.slice'

container=$(process web)
first=$(supervisor web)
check "daemon-reload" systemctl daemon-reload
check "it touches nothing" is "$(process web) $(supervisor web)" "$container $first"
check "nor the limits" is "$(limits)" "67108864 90000 100000 60"
check "kill -9 of the supervisor" systemctl kill -s KILL "$unit"
other_supervisor() { second=$(supervisor web) && [ -n "$second" ] && [ "$second" != "$first" ] && active; }
check "another one comes" until_true 20 other_supervisor
check "and the container runs on" is "$(process web)" "$container"
check "as events tell" event web adopted "process $container goes on"
check "it answers" answers 8080 /
check "there is one" is "$(scopes)" 1
check "the new supervisor updates it" opsrun update web --memory 72m
check "at once" is "$(limits)" "75497472 90000 100000 60"
fails opsrun exec web tail /dev/zero
out_of_memory() { opsrun status web | grep 'killed: out of memory, limit 72 MiB'; }
check "and tells of a worker that was killed for want of memory" until_true 20 out_of_memory
check "alone" is "$(process web) $(state web)" "$container running"
kill -9 "$container"
again() { now=$(process web) && [ -n "$now" ] && [ "$now" != "$container" ] && [ "$(state web)" = running ]; }
check "the new supervisor notices the end of what it took over" until_true 30 again

check "with the limits as they were updated" is "$(limits)" "75497472 90000 100000 60"

check "systemctl restart" systemctl restart "$unit"
check "is running again" is "$(state web)" running
check "in one container" is "$(scopes)" 1
check "and the same limits" is "$(limits)" "75497472 90000 100000 60"
check "systemctl stop" systemctl stop "$unit"
check "opsrun agrees" is "$(state web)" stopped
check "events tell who did it" event web stopped "by systemd"
check "and knows that it is wanted so" wanted down
check "nothing is left" until_true 5 none_left
check "systemctl start" systemctl start "$unit"
check "opsrun agrees that it runs" is "$(state web)" running
check "what it wrote is in the journal" until_true 5 sh -c 'journalctl -q SERVICE=web RELEASE=1 | grep -q .'

check "opsrun restart" opsrun restart web
check "the unit is up after it" active
check "a new generation" is "$(column web 8)" 2
check "with the same limits" is "$(limits)" "75497472 90000 100000 60"
check "opsrun stop" opsrun stop web
check "the unit is down" fails active
check "and not failed" fails failed

cp /opt/web/conf/busybox.conf good.conf
echo 'echo "no database" >&2; exit 3' >> /opt/web/conf/busybox.conf
check "a start in vain fails" sh -c '! opsrun start web 2> said'
check "with the reason" grep -q "exited with status 3" said
check "and the service's own words" grep -q "no database" said
check "changes nothing" is "$(column web 8) $(state web)" "2 stopped"
check "leaves no failed unit" fails failed
cp good.conf /opt/web/conf/busybox.conf

check "start for the crash loop" opsrun start web
# The generation's copy is what runs: from the next start on it ends at once.
for conf in /var/lib/opsrun/services/web/generations/*/conf/busybox.conf; do echo 'exit 3' >> "$conf"; done
kill -9 "$(process web)"
restarts=$(systemctl show --property NRestarts "$unit")
restarts=${restarts#*=}
check "a crash loop fails the unit" until_true 60 failed
check "and opsrun says so" is "$(state web)" crash-loop
check "systemctl status says why" sh -c "systemctl status $unit | grep -q 'Status: .*crash loop; it failed 3 times in a row'"
check "nothing of it is left" until_true 5 none_left
busybox sleep 1
check "systemd does not restart it away" is "$(systemctl is-active $unit) $(systemctl show --property NRestarts $unit)" \
    "failed NRestarts=$restarts"
check "opsrun stop" opsrun stop web
check "opsrun and systemd agree that it is down" is "$(state web) $(systemctl is-active $unit)" "stopped inactive"

# Times shorter than what is done takes, and a supervisor that hangs.
mkdir -p "/run/systemd/system/$unit.d"
printf '[Service]\nTimeoutStartSec=3\nTimeoutStopSec=3\nWatchdogSec=6\n' > "/run/systemd/system/$unit.d/short.conf"
systemctl daemon-reload
cat >> /opt/web/conf/busybox.conf <<'END'
trap 'sleep 5; echo "ended as it wanted"; exit' TERM
sleep 5
httpd -f -p "$listen" -h /www &
wait
wait
END
check "a slow start takes the time it needs" opsrun start web
cp good.conf /opt/web/conf/busybox.conf
container=$(process web)
first=$(supervisor web)
check "a supervisor hangs" kill -STOP "$first"
check "the watchdog replaces it" until_true 30 other_supervisor
check "as systemd says" sh -c "journalctl -q -u $unit | grep 'Watchdog timeout'"
check "and the container runs on" is "$(process web)" "$container"
check "under the new one" is "$(state web) $(scopes)" "running 1"
check "a slow stop" systemctl stop "$unit"
check "takes the time it needs" sh -c 'opsrun logs web | grep "ended as it wanted"'
check "and is none of a failure" is "$(systemctl show --property Result $unit)" Result=success
rm "/run/systemd/system/$unit.d/short.conf"
systemctl daemon-reload
check "start" opsrun start web

echo 'after = ["database"]' | cat - /etc/opsrun/web.toml > web.toml
cp web.toml /etc/opsrun/web.toml
check "enable" opsrun enable web
check "in the order that its settings give" sh -c "systemctl show --property After $unit | grep -q opsrun@database.service"
check "systemd knows" systemctl is-enabled --quiet "$unit"
check "opsrun shows it" sh -c 'opsrun status web | grep -q "at boot.*started"'
check "disable" opsrun disable web
check "systemd knows that too" fails systemctl is-enabled --quiet "$unit"
check "run" sh -c 'opsrun run --rm busybox:1 cat /proc/self/cgroup | grep -q "opsrun.slice/opsrun-run"'

round() { opsrun start web && opsrun stop web; }
check "stop" opsrun stop web
for number in 1 2 3; do check "round $number" round; done
check "nothing is left after it" until_true 5 none_left

# What was installed goes, what the services have stays.
check "enable" opsrun enable web
check "start" opsrun start web
check "no uninstallation under a running service" refused "services run" ./install --uninstall
check "which runs on" active
check "stop" opsrun stop web
check "uninstall" ./install --uninstall
installed() {
    find /usr/local /etc/systemd /usr/share/man -name '*opsrun*'
    systemctl list-unit-files --no-legend 'opsrun*'
}
check "nothing of it is left" is "$(installed)" ""
check "the configuration stays" test -f /opt/web/conf/busybox.conf -a -f /etc/opsrun/web.toml
check "and so do images and services" test -d /var/lib/opsrun/store -a -f /var/lib/opsrun/services/web/record.json
check "it can be installed again" env OPSRUN_BINARY=/run/guest/opsrun ./install
check "and finds everything" opsrun start web
