#!/bin/sh
# Run inside a guest by smoke.sh: is this a host with what opsrun needs?
#
#     inside.sh KIND ARGUMENT ARGUMENT
# shellcheck disable=SC2317 # the functions are called by check
kind=$1
arguments="$*"

check() {
    what=$1
    shift
    if "$@" > /tmp/said 2>&1; then echo "ok $what"; else echo "FAILED $what: $(cat /tmp/said)"; fi
}

read -r uptime_s _ < /proc/uptime
echo "uptime at the script's start: $uptime_s s"

check "arguments arrive as they are" test "$arguments-$#" = "$kind two words it's-3"
check "in the script's folder" test -f inside.sh
check "opsrun is on PATH" command -v opsrun

pid_1() { [ "$(readlink /proc/1/exe)" = "$1" ]; }
booted() { [ "$(systemctl is-system-running --wait)" = running ] || { systemctl --failed; false; }; }
version() { systemctl --version | grep -q "^systemd $1 "; }
no_more() { ! command -v systemctl && ! command -v apt-get && ! command -v bash; }
case $kind in
minimal)
    check "busybox is the first process" pid_1 /bin/busybox
    check "neither systemd nor a package manager" no_more
    ;;
*)
    check "systemd is the first process" pid_1 /usr/lib/systemd/systemd
    check "it has booted without a failure" booted
    if [ "$kind" = bookworm ]; then check "systemd 252" version 252; else check "systemd 257" version 257; fi
    check "a transient scope" systemd-run --quiet --scope true
    ;;
esac

cgroup=/sys/fs/cgroup/smoke
only_v2() { [ "$(wc -l < /proc/self/cgroup)" = 1 ] && [ "$(stat -f -c %T /sys/fs/cgroup)" != tmpfs ]; }
controllers() {
    for name in cpu io memory pids; do
        grep -qw "$name" /sys/fs/cgroup/cgroup.controllers || return
    done
    echo +cpu +io +memory +pids > /sys/fs/cgroup/cgroup.subtree_control && mkdir "$cgroup"
}
oom() {
    echo 20M > "$cgroup/memory.max" || return
    sh -c "echo 0 > $cgroup/cgroup.procs; exec tail /dev/zero"
    [ $? = 137 ] && grep -qx 'oom_kill 1' "$cgroup/memory.events"
}
pids() {
    echo 2 > "$cgroup/pids.max" && ! sh -c "echo 0 > $cgroup/cgroup.procs; sleep 0 & sleep 0 & wait; true | true" &&
        grep -q '^max [1-9]' "$cgroup/pids.events"
}
# What the last check left in it may still be ending.
emptied() {
    i=0
    until rmdir "$cgroup"; do
        i=$((i + 1))
        [ "$i" -lt 100 ] || return
        sleep 0.1
    done
}
overlay() {
    mkdir -p /var/o/lower /var/o/upper /var/o/work /var/o/merged && echo below > /var/o/lower/file &&
        unshare -m sh -c 'mount -t overlay -o lowerdir=/var/o/lower,upperdir=/var/o/upper,workdir=/var/o/work overlay /var/o/merged &&
            echo above > /var/o/merged/file' && [ "$(cat /var/o/upper/file)" = above ]
}
# Over IPv6 too, whose module is loaded when it is first asked for.
ping_self() {
    for address in 127.0.0.1:5000 '[::1]:5000'; do
        busybox httpd -p "$address" -h . && busybox wget -q -O - "http://$address/inside.sh" | cmp - inside.sh || return
    done
}
check "cgroup v2 and no other" only_v2
check "cpu, io, memory and pids" controllers
check "memory limit: an OOM kill, counted" oom
check "pids limit" pids
check "the cgroup goes" emptied
check "an overlay on ext4" overlay
check "namespaces" unshare -m -p -i -f true
check "loopback" ping_self
check "a hard limit can be raised" sh -c 'ulimit -H -n 600000'

echo "on stderr" >&2
echo "left by it" > left
exit 7
