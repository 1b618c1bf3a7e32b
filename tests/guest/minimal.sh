#!/bin/sh
# Inside a guest with nothing but busybox, opsrun and an image file: everything works, services start at boot in their
# order, and one that lost its supervisor is taken up.
set -eu
# shellcheck source=tests/guest/shell.sh
. ./shell.sh
check "load" opsrun load busybox-1.tar
web_service web 8080 'after = ["database"]'
web_service database 8081
check "start" opsrun start web:1
check "start another" opsrun start database
check "ps" is "$(state web) $(state database)" "running running"
check "exec" sh -c 'opsrun exec web cat /proc/1/comm'
check "it answers" answers 8080 /
check "logs" opsrun logs web
check "status" opsrun status web
check "run" sh -c 'opsrun run --rm busybox:1 echo hello | grep -qx hello'

session() { awk '{ print $6 }' "/proc/$1/stat"; }
check "the supervisor leads its own session" is "$(session "$(supervisor web)")" "$(supervisor web)"

before=$(process web)
kill -9 "$(supervisor web)"
lost() { [ -z "$(supervisor web)" ]; }
check "the supervisor is lost" until_true 5 lost
check "boot takes it up" opsrun boot
check "in one container" is "$(state web) $(busybox find /sys/fs/cgroup -type d -name 'web-g*' | wc -l)" "running 1"
check "not the old one" fails is "$(process web)" "$before"

check "stop" opsrun stop web
check "stop the other" opsrun stop database
check "nothing is left" until_true 5 none_left
check "boot starts nothing that is not enabled" opsrun boot
check "web is down" is "$(state web)" stopped
check "enable" opsrun enable web
check "enable the other" opsrun enable database
check "boot" opsrun boot
check "both run" is "$(state web) $(state database)" "running running"
started() { stat -c %Y "/proc/$(process "$1")"; }
check "in their order" test "$(started database)" -le "$(started web)"
web_service database 8081 'after = ["web"]'
opsrun stop web && opsrun stop database
check "a circle is refused" sh -c '! opsrun boot 2> said'
check "and named" grep -q "circle: database, web" said
