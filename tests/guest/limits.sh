#!/bin/sh
# Shows in a guest that limits hold: run by scripts/guest from a folder that also holds busybox-1.tar.
#
#     cp tests/guest/limits.sh FOLDER; cp $OPSRUN_CACHE/busybox-1.tar FOLDER; scripts/guest run FOLDER/limits.sh
#
# Each promise is one line, "ok …" or "FAILED …"; the status is that of the whole.
# shellcheck disable=SC2015 # ok never fails, so what follows || is for the check alone
set -u
export OPSRUN_ROOT=/var/limits
mkdir -p "$OPSRUN_ROOT"
ip link set lo up 2>/dev/null || busybox ip link set lo up
failed=0
ok() { echo "ok $*"; }
wrong() { echo "FAILED $*"; failed=1; }
check() { what=$1; shift; if "$@" > /tmp/said 2>&1; then ok "$what"; else wrong "$what: $(cat /tmp/said)"; fi; }
refused() { what=$1 text=$2; shift 2; if opsrun "$@" > /tmp/said 2>&1; then wrong "$what: it went well"; opsrun stop hog >/dev/null 2>&1; elif grep -qF "$text" /tmp/said; then ok "$what: $(grep -m 1 error: /tmp/said)"; else wrong "$what: $(cat /tmp/said)"; fi; }
leaf() { find /sys/fs/cgroup -type d -name "$1-g*" | head -n 1; }
value() { cat "$(leaf "$1")/$2"; }
mounts_before=$(wc -l < /proc/self/mountinfo)
cgroups() { find /sys/fs/cgroup -type d | sort; }

opsrun load --tag hog:1 busybox-1.tar > /dev/null 2>&1 || wrong "load"
opsrun load --tag calm:1 busybox-1.tar > /dev/null 2>&1
mkdir -p "$OPSRUN_ROOT/etc/opsrun"
service() {
    mkdir -p "$OPSRUN_ROOT/opt/$1/conf"
    echo "# nothing" > "$OPSRUN_ROOT/opt/$1/conf/$1.conf"
    cat > "$OPSRUN_ROOT/etc/opsrun/$1.toml" <<END
entrypoint = []
command = ["/bin/sh", "-c", "$2"]
health = { check = "runs", runs_for = "300ms" }
stop = { grace = "2s" }
restart = { backoff_first = "1s" }
user = "0"
END
}
service calm 'echo calm > /tmp/index.html; exec httpd -f -p 127.0.0.1:7001 -h /tmp'
service hog 'trap exit TERM; while :; do sleep 1 & wait; done'
cgroups > /tmp/before

# 6. Bad input.
refused "memory 0" "more than 0" start hog:1 --memory 0
refused "memory of an unknown unit" "no size" start hog:1 --memory 5q
refused "negative memory" "no size" start hog:1 --memory=-5m
refused "absurd memory" "this host has" start hog:1 --memory 900g
refused "more cpus than there are" "this host has 1 processor" start hog:1 --cpus 8
refused "pids 0" "at least 1" start hog:1 --pids-limit 0
mount -o remount,ro /sys/fs/cgroup
refused "read-only cgroups" "read-only" start hog:1 --memory 50m
mount -o remount,rw /sys/fs/cgroup

# 1. The limit is in force, the neighbour answers.
check "calm starts" opsrun start calm:1
check "hog starts with limits" opsrun start hog:1 --memory 50m --pids-limit 40 --cpus 0.2 --cpu-weight 50
[ "$(value hog memory.max)" = 52428800 ] && ok "memory.max" || wrong "memory.max $(value hog memory.max)"
[ "$(value hog cpu.max)" = "20000 100000" ] && ok "cpu.max" || wrong "cpu.max $(value hog cpu.max)"
[ "$(value hog pids.max)" = 40 ] && ok "pids.max" || wrong "pids.max"
[ -e "$(leaf calm)/memory.current" ] && ok "memory is counted without a limit" || wrong "calm has no memory controller"

usage() { sed -n 's/^usage_usec //p' "$(leaf hog)/cpu.stat"; }
opsrun exec hog sh -c 'while :; do :; done' > /dev/null 2>&1 &
spinner=$!
sleep 2
first=$(usage); sleep 10; second=$(usage)
used=$(((second - first) / 100000))
if [ "$used" -ge 15 ] && [ "$used" -le 25 ]; then ok "cpus 0.2: 0.$used of a cpu over 10 s"; else wrong "cpus 0.2: 0.$used"; fi

# Live.
check "update" opsrun update hog --cpus 0.5 --memory 60m
cat /tmp/said
[ "$(value hog cpu.max)" = "50000 100000" ] && [ "$(value hog memory.max)" = 62914560 ] && ok "update is in force without a restart" || wrong "update"
first=$(usage); sleep 5; second=$(usage)
echo "   after update: $(((second - first) / 50000)) hundredths of a cpu over 5 s"
refused "update to what cannot be" "this host has" update hog --memory 900g
kill "$spinner" 2>/dev/null
grep -q '"memory.max": "62914560"' "$OPSRUN_ROOT"/var/lib/opsrun/services/hog/generations/*/config.json && ok "update is in the generation" || wrong "update is not kept"

# A memory hog dies alone.
opsrun exec hog sh -c 'tail /dev/zero' > /tmp/said 2>&1; echo "   the hog's status: $?"
until_s=10
while [ "$until_s" -gt 0 ] && ! opsrun status hog | grep -q 'out of memory'; do sleep 1; until_s=$((until_s - 1)); done
check "status names it" sh -c 'opsrun status hog | grep "out of memory"'; cat /tmp/said
check "the log names it" sh -c 'opsrun logs hog | grep "out of memory"'
check "ps counts it apart" sh -c "opsrun ps --json | grep '\"oom_kills\": [1-9]'"
[ "$(busybox wget -q -O - http://127.0.0.1:7001/)" = calm ] && ok "the neighbour answers" || wrong "the neighbour does not answer"

# A fork bomb.
opsrun exec hog sh -c 'f() { sleep 100 & f; }; f' > /dev/null 2>&1 &
sleep 4
pids=$(value hog pids.current)
[ "$pids" -le 40 ] && [ "$pids" -ge 30 ] && ok "fork bomb: $pids of 40 processes" || wrong "fork bomb: $pids"
check "stats" opsrun stats calm hog; cat /tmp/said
began=$(date +%s); check "stop ends it" opsrun stop hog; echo "   in $(($(date +%s) - began)) s"

# 2. Nothing is left.
[ -z "$(leaf hog)" ] && ok "no cgroup after stop" || wrong "cgroup $(leaf hog)"
rounds=0
while [ "$rounds" -lt "${ROUNDS:-50}" ]; do opsrun start hog:1 --memory 50m > /dev/null 2>&1 && opsrun stop hog > /dev/null 2>&1 || { wrong "round $rounds"; break; }; rounds=$((rounds + 1)); done
opsrun stop calm > /dev/null 2>&1
cgroups > /tmp/after
if diff /tmp/before /tmp/after > /tmp/said; then ok "no cgroup after $rounds rounds"; else wrong "cgroups: $(cat /tmp/said)"; fi
[ "$(wc -l < /proc/self/mountinfo)" = "$mounts_before" ] && ok "no mount" || wrong "mounts: $(cat /proc/self/mountinfo)"
[ -z "$(pgrep -f 'opsrun supervise' 2>/dev/null)" ] && ok "no supervisor" || wrong "a supervisor is left"
exit "$failed"
