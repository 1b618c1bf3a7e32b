#!/bin/sh
# Inside a Debian guest: limits are in force from the first process on and live, what breaks one is stopped alone and told
# of, bad ones are refused, and in the end nothing is left of any service. In a root of its own, so that systemd has no
# part in it: systemd.sh has limits in its scopes.
set -eu
export OPSRUN_ROOT=/var/limits
# shellcheck source=tests/guest/shell.sh
. ./shell.sh

cgroups() { find /sys/fs/cgroup -type d | sort; }
mounts() { cut -d ' ' -f 5- /proc/self/mountinfo | sort; }

service() {
    mkdir -p "$OPSRUN_ROOT/opt/$1/conf" "$OPSRUN_ROOT/etc/opsrun"
    echo "# nothing" > "$OPSRUN_ROOT/opt/$1/conf/$1.conf"
    cat > "$OPSRUN_ROOT/etc/opsrun/$1.toml" <<END
entrypoint = []
command = ["/bin/sh", "-c", '''$2''']
health = { check = "runs", runs_for = "50ms" }
stop = { grace = "2s" }
restart = { backoff_first = "100ms", backoff_max = "200ms", crash_loop_failures = 9 }
user = "0"
END
}

check "load" opsrun load --tag hog:1 busybox-1.tar
check "load the neighbour's" opsrun load --tag calm:1 busybox-1.tar
# shellcheck disable=SC2016 # for the shell inside
service calm 'echo calm > /tmp/index.html; exec httpd -f -p 127.0.0.1:7001 -h /tmp'
service hog '
    trap exit TERM
    while :; do
        if [ -e /tmp/worker-eats ]; then rm /tmp/worker-eats; tail /dev/zero; fi
        if [ -e /tmp/eats ]; then rm /tmp/eats; exec tail /dev/zero; fi
        sleep 0.5 & wait
    done'
cgroups > /tmp/cgroups-before
mounts > /tmp/mounts-before

# Bad input.
bad() { what=$1 text=$2; shift 2; check "$what is refused" refused "$text" opsrun start hog:1 "$@"; }
bad "memory 0" "more than 0" --memory 0
bad "memory of an unknown unit" "no size" --memory 5q
bad "negative memory" "no size" --memory=-5m
bad "absurd memory" "this host has" --memory 900g
bad "memory beyond any machine" "too large" --memory 99999999999999999999g
bad "more cpus than there are" "this host has 1 processor" --cpus 8
bad "0 cpus" "at least 0.01" --cpus 0
bad "negative cpus" "no number" --cpus=-1
bad "0 pids" "at least 1" --pids-limit 0
bad "a rate for what is no disk" "no block device" --device-write-bps /dev/null:1mb
echo 'limits.cpus = "many"' | cat - "$OPSRUN_ROOT/etc/opsrun/hog.toml" > hog.toml
cp "$OPSRUN_ROOT/etc/opsrun/hog.toml" hog.good
cp hog.toml "$OPSRUN_ROOT/etc/opsrun/hog.toml"
bad "a wrong limit in the settings" "hog.toml"
check "its line is named" grep -q 'line 1' said
cp hog.good "$OPSRUN_ROOT/etc/opsrun/hog.toml"
mount -o remount,ro /sys/fs/cgroup
bad "a limit with read-only cgroups" "mounted read-only" --memory 50m
check "with what to do" grep -q 'hint: mount -o remount,rw' said
check "as doctor says" sh -c 'opsrun doctor | grep "cgroups.*read-only"'
mount -o remount,rw /sys/fs/cgroup
bad "a weight that this kernel does not know" "the kernel has the io controller, but no io.weight" --blkio-weight 500
check "with what to do" grep -q 'hint: .*--allow-unenforced' said
check "nothing was made of all that" sh -c '! opsrun status hog'

# In force before the first process.
check "the neighbour starts" opsrun start calm:1 --memory-high 100m
check "start with limits" opsrun start hog:1 --memory 50m --memory-reservation 10m --memory-swap 60m --pids-limit 40 \
    --cpus 0.2 --cpu-weight 50
holds() { check "$1 $2 = $3" is "$(value "$1" "$2")" "$3"; }
holds hog memory.max 52428800
holds hog memory.low 10485760
holds hog memory.swap.max 10485760
holds hog pids.max 40
holds hog cpu.max "20000 100000"
holds hog cpu.weight 50
holds hog memory.oom.group 0
holds calm memory.high 104857600
holds calm memory.max max

# usage SECONDS: thousandths of a processor that the container uses in that time.
usage_us() { sed -n 's/^usage_usec //p' "$(leaf hog)/cpu.stat"; }
usage() {
    from_us=$(usage_us) from_cs=$(uptime_cs)
    busybox sleep "$1"
    to_us=$(usage_us) to_cs=$(uptime_cs)
    echo $(((to_us - from_us) / 10 / (to_cs - from_cs)))
}
opsrun exec hog sh -c 'while :; do :; done' > /dev/null 2>&1 &
spinner=$!
spins() { [ "$(usage_us)" -gt 1000000 ]; }
check "a spinner" until_true 20 spins
used=$(usage 10)
check "with 0.2 cpus gets 0.$used over 10 s" test "$used" -ge 150 -a "$used" -le 250

container=$(process hog)
check "update" opsrun update hog --cpus 0.5 --memory 60m
holds hog cpu.max "50000 100000"
holds hog memory.max 62914560
check "events tell who did that" event hog updated \
    'cpu.max 20000 100000 → 50000 100000, memory.max 50 MiB → 60 MiB.*; by root.*, opsrun update'
check "without a restart" is "$(process hog)" "$container"
used=$(usage 4)
check "the spinner gets 0.$used of 0.5 now" test "$used" -ge 350 -a "$used" -le 650
kill "$spinner"
check "update to what no host has" refused "this host has" opsrun update hog --memory 900g
check "a worker's memory" opsrun exec hog dd if=/dev/zero of=/dev/shm/held bs=1M count=12
check "update to less than is in use" refused "cannot be given back" opsrun update hog --cpus 0.3 --memory 10m
check "says what to do" grep -q 'hint: give it more than .opsrun stats hog. says' said
holds hog memory.max 62914560
holds hog cpu.max "50000 100000"
check "free it" opsrun exec hog rm /dev/shm/held

# Out of memory. The neighbour is asked all the time.
probe() {
    while [ -e /tmp/probing ]; do
        if [ "$(busybox wget -q -O - http://127.0.0.1:7001/)" = calm ]; then echo ok; else echo FAILED; fi
        busybox sleep 0.05
    done
}
touch /tmp/probing
probe > /tmp/probes 2>&1 &
prober=$!
neighbour=$(process calm)
counted() { opsrun ps --json | sed -n "/\"service\": \"hog\"/,/\"ports\"/s/^ *\"$1\": \([0-9]*\),*/\1/p"; }
restarted() { [ "$(counted restarts)" = "$1" ] && [ "$(state hog)" = running ]; }
killed() { [ "$(counted oom_kills)" -ge "$1" ]; }
told='killed: out of memory, limit 60 MiB, peak \(60\|59\.[0-9]\) MiB'

kill -9 "$container"
check "a crash is followed by a restart" until_true 20 restarted 1
check "which is no kill for want of memory" is "$(counted oom_kills)" 0
check "nor told as one" fails event hog oom ''
holds hog memory.max 62914560
holds hog cpu.max "50000 100000"

container=$(process hog)
check "a worker eats" opsrun exec hog touch /tmp/worker-eats
check "it is killed, and that is counted apart" until_true 30 killed 1
check "and it alone" is "$(process hog) $(counted restarts) $(counted oom_kills)" "$container 1 1"
check "status names it" sh -c "opsrun status hog | grep '$told'"
check "the log names it" sh -c "opsrun logs hog | grep '$told'"
check "events name it" event hog oom "$told"
check "and no end of the service by it" fails event hog exited "$told"

check "the service itself eats" opsrun exec hog touch /tmp/eats
check "it is started again" until_true 30 restarted 2
check "and counted" is "$(counted oom_kills)" 2
check "status names the cause" sh -c "opsrun status hog | grep -A 1 'ended by SIGKILL' | grep 'caused by: $told'"
check "events name the cause" event hog restarting "ended by SIGKILL: $told"

check "all of it by choice" opsrun update hog --oom-group
holds hog memory.oom.group 1
opsrun exec hog sleep 1000 > /dev/null 2>&1 &
bystander=$!
container=$(process hog)
check "a worker eats again" opsrun exec hog touch /tmp/worker-eats
check "the whole container dies, and comes again" until_true 30 restarted 3
check "another one" fails is "$(process hog)" "$container"
status=0
wait "$bystander" || status=$?
check "a bystander in it was killed" is "$status" 137
check "more than one kill is counted" test "$(counted oom_kills)" -ge 4
check "events tell of it" test "$(opsrun events hog | grep -c -e " oom .*$told")" -ge 3
check "the choice is kept" is "$(value hog memory.oom.group)" 1
rm /tmp/probing
wait "$prober"
check "the neighbour answered $(wc -l < /tmp/probes) times throughout" test "$(wc -l < /tmp/probes)" -ge 30
check "and never failed" is "$(grep -c -v "^ok$" /tmp/probes)" 0
check "as the same process" is "$(process calm)" "$neighbour"

# Processes: none outside the leaf, and no more than allowed.
in_leaf() {
    space=$(readlink "/proc/$(process hog)/ns/pid")
    # shellcheck disable=SC2012 # one process for all, and no odd names
    ls -l /proc/[0-9]*/ns/pid 2> /dev/null \
        | awk -v space="$space" '$NF == space { split($(NF - 2), part, "/"); print part[3] }' | sort > /tmp/in-namespace
    sort "$(leaf hog)/cgroup.procs" > /tmp/in-leaf
    diff /tmp/in-namespace /tmp/in-leaf
}
check "a process that leaves its session" opsrun exec hog sh -c 'setsid sleep 1000 > /dev/null 2>&1 &'
opsrun exec hog sh -c 'f() { sleep 1000 & f; }; f' > /tmp/bomb 2>&1 &
# How many there are at that moment is not to be seen: the shell that makes them ends when it can make no more.
full() { value hog pids.events | grep 'max [1-9]' || { value hog pids.current; cat /tmp/bomb; false; }; }
check "a fork bomb" until_true 120 full
busybox sleep 1
check "stops at $(value hog pids.current) of 40" test "$(value hog pids.current)" -le 40
check "all processes are in the leaf" until_true 10 in_leaf
check "of which there are many" test "$(wc -l < /tmp/in-leaf)" -ge 30
check "stats" sh -c "opsrun stats calm hog | tee /dev/stderr | grep -q 'hog .*60 MiB .* / 40'"
from_cs=$(uptime_cs)
check "stop ends it" opsrun stop hog
check "in $((($(uptime_cs) - from_cs) / 100)) s" test $(($(uptime_cs) - from_cs)) -lt 1000
check "no cgroup after stop" is "$(leaf hog)" ""

# Disks.
disk=98:0
check "start with a rate for a disk" opsrun start hog:1 --device-write-bps /dev/ubda:1mb
holds hog io.max "$disk rbps=max wbps=1048576 riops=max wiops=max"
# timed COMMAND...: hundredths of a second that it takes in the container.
timed() {
    # shellcheck disable=SC2016 # for the shell inside
    opsrun exec hog sh -c 'read -r from _ < /proc/uptime; "$@" 2> /dev/null || exit; read -r to _ < /proc/uptime
        echo "$from $to"' sh "$@" | awk '{ print int(($2 - $1) * 100) }'
}
writes() { timed dd if=/dev/zero of=/file bs=64k count=64 oflag=direct; }
took=$(writes)
check "4 MiB at 1 MiB/s take $took hundredths of a second" test "$took" -ge 320 -a "$took" -le 1200
check "update of rates" opsrun update hog --device-write-bps /dev/ubda:100mb --device-read-iops /dev/ubda:10
holds hog io.max "$disk rbps=max wbps=104857600 riops=10 wiops=max"
took=$(writes)
check "at 100 MiB/s they take $took" test "$took" -lt 320
took=$(timed dd if=/file of=/dev/null bs=4k count=20 iflag=direct)
check "20 reads at 10 a second take $took" test "$took" -ge 150 -a "$took" -le 600
check "stats counts what was written" sh -c "opsrun stats hog | grep -q '/ 8 MiB'"
modprobe loop
loop=$(cat /sys/block/loop0/dev)
mknod /tmp/loop0 b "${loop%:*}" "${loop#*:}"
check "update to another disk" opsrun update hog --device-write-bps /tmp/loop0:1mb --device-read-iops /tmp/loop0:10
holds hog io.max "$loop rbps=max wbps=1048576 riops=10 wiops=max"
check "stop" opsrun stop hog
check "unenforced by choice" opsrun start hog:1 --blkio-weight 500 --device-write-bps /dev/ubda:1mb --allow-unenforced
check "which ps shows" sh -c "opsrun ps | grep 'hog .*running (unenforced: io.weight)'"
check "and status" sh -c "opsrun status hog | grep 'unenforced *io.weight'"
holds hog io.max "$disk rbps=max wbps=1048576 riops=max wiops=max"
check "stop" opsrun stop hog

# Nothing is left.
round() { opsrun start hog:1 --memory 50m && opsrun stop hog; }
rounds() {
    for number in $(seq 50); do
        round || { echo "in round $number"; return 1; }
    done
}
check "50 rounds" rounds
check "the neighbour runs on" is "$(process calm)" "$neighbour"
check "stop the neighbour" opsrun stop calm
cgroups > /tmp/cgroups-after
mounts > /tmp/mounts-after
check "no cgroup is left" diff /tmp/cgroups-before /tmp/cgroups-after
check "no mount" diff /tmp/mounts-before /tmp/mounts-after
check "no process" fails pgrep -f 'opsrun (supervise|create)'
