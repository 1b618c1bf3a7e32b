#!/bin/sh
# Inside a guest with nothing but busybox, opsrun and an image file: everything works, services start at boot in their
# order, and one that lost its supervisor is taken up.
set -eu
# shellcheck source=tests/guest/shell.sh
. ./shell.sh
# The scripts are the guest's own init, and what carries out this one.
programs() {
    find / -xdev -type f -perm -100 ! -path '/usr/lib/guest/*' ! -path '/etc/rc.*' ! -path /sbin/init | sort | xargs
}
check "there is nothing but busybox and opsrun" is "$(programs)" "/bin/busybox /usr/local/bin/opsrun"
check "load" opsrun load busybox-1.tar
web_service web 8080
web_service database 8081 'after = ["web"]'
check "start" opsrun start web:1 --memory 64m --pids-limit 60
check "start another" opsrun start database
check "ps" is "$(state web) $(state database)" "running running"
check "exec" is "$(opsrun exec web cat /proc/1/comm)" opsrun-init
check "it answers" answers 8080 /
check "logs" sh -c 'opsrun logs web | grep "listening on 127.0.0.1:8080"'
check "status" sh -c 'opsrun status web | grep "memory.max = 67108864"'
check "limits" is "$(value web memory.max) $(value web pids.max)" "67108864 60"
check "update" opsrun update web --memory 70m
check "at once" is "$(value web memory.max)" 73400320
check "stats" sh -c 'opsrun stats | grep "web .*70 MiB"'
check "events" event web updated "memory.max 64 MiB → 70 MiB.*; by root, opsrun update"
check "run" is "$(opsrun run --rm busybox:1 echo hello)" hello

session() { awk '{ print $6 }' "/proc/$1/stat"; }
check "the supervisor leads its own session" is "$(session "$(supervisor web)")" "$(supervisor web)"

before=$(process web)
first=$(supervisor web)
kill -9 "$first"
another() { second=$(supervisor web) && [ -n "$second" ] && [ "$second" != "$first" ]; }
check "its keeper has another supervisor come" until_true 10 another
check "which goes on with the container" until_true 10 event web adopted "process $before goes on"
check "as if nothing had been" is "$(process web) $(state web)" "$before running"
check "it answers on" answers 8080 /
keepers() {
    for each in /proc/[0-9]*; do
        case $(tr '\0' ' ' < "$each/cmdline" 2>/dev/null) in
        "opsrun keep web "*) echo "${each#/proc/}" ;;
        esac
    done
}
kill -STOP "$second"
# shellcheck disable=SC2046
kill -9 $(keepers) "$second"
lost() { [ -z "$(supervisor web)" ]; }
check "the supervisor and the keeper are lost" until_true 5 lost
check "which ps shows" is "$(state web)" unsupervised
check "its container answers on" answers 8080 /
check "boot takes it up" opsrun boot
check "the same container" is "$(process web) $(state web)" "$before running"
check "which is the only one" is "$(busybox find /sys/fs/cgroup -type d -name 'web-g*' | wc -l)" 1
check "with one keeper" is "$(keepers | wc -l)" 1
check "with the limits as they were updated" is "$(value web memory.max)" 73400320
check "it answers again" answers 8080 /

check "stop" opsrun stop web
check "stop the other" opsrun stop database
check "nothing is left" until_true 5 none_left
check "boot starts nothing that is not enabled" opsrun boot
check "web is down" is "$(state web)" stopped
check "enable" opsrun enable web
check "enable the other" opsrun enable database
check "boot" opsrun boot
check "both run" is "$(state web) $(state database)" "running running"
# Hundredths of a second after the guest's boot.
started() { awk '{ print $22 }' "/proc/$(process "$1")/stat"; }
check "in the order of \`after\`" test "$(started web)" -lt "$(started database)"
web_service web 8080 'after = ["database"]'
opsrun stop web && opsrun stop database
check "a circle is refused" sh -c '! opsrun boot 2> said'
check "and named" grep -q "circle: database, web" said
check "and nothing is started" is "$(state web) $(state database)" "stopped stopped"
