#!/bin/sh
# Inside a minimal guest whose kernel was told initcall_blacklist=tcp_diag_init, so that it does not tell who listens: a swap
# goes the next best way, which is said beforehand and afterwards, and a crash is waited out as ever.
set -eu
# shellcheck source=tests/guest/shell.sh
. ./shell.sh
lacks="this host lacks sock_diag: No such file or directory"
opsrun doctor > found 2> hints
check "doctor names what is missing" grep -q "^limited  *sock_diag  *No such file or directory" found
check "and who has it" grep -q "hint: sock_diag: a kernel with CONFIG_INET_DIAG has it: modprobe tcp_diag" hints
check "and what follows" grep -q "^limited  *swap  *stop-first, since $lacks" found
check "what needs it was not tried" grep -q "^limited  *SO_MARK  *not tried: that takes sock_diag" found
check "load" opsrun load busybox-1.tar
check "the same as another release" opsrun load --tag busybox:2 busybox-1.tar
web_service web 8080
check "start" opsrun start web:1
check "status says so" sh -c 'opsrun status web | grep "next swap  *stop-first, since '"$lacks"'"'
check "so does the plan" sh -c 'opsrun swap web 2 --plan | grep "the way: stop-first, since '"$lacks"'"'
check "a swap goes that way" sh -c 'opsrun swap web 2 --soak 1s > said 2>&1'
check "and says so" grep -q "1 is stopped before 2 starts, since $lacks" said
check "the other one serves" is "$(column web 2) $(state web)" "2 running"
before=$(process web)
busybox kill -9 "$before"
# Until then its processes may still accept connections, which end with them.
fallen() { [ "$(process web)" != "$before" ]; }
check "a crash is seen" until_true 20 fallen
check "who connects after a crash waits" answers 8080 /
again() { now=$(process web) && [ -n "$now" ] && [ "$now" != "$before" ]; }
check "for the same release, started again" until_true 20 again
check "stop" opsrun stop web
check "nothing is left" until_true 5 none_left
