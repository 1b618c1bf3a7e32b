#!/bin/sh
# Inside a minimal guest whose kernel was told cgroup_disable=pids: limits on processes are refused by name, all others
# hold, and what is not counted is shown as absent.
set -eu
# shellcheck source=tests/guest/shell.sh
. ./shell.sh
check "the kernel has no pids controller" sh -c '! grep -w pids /sys/fs/cgroup/cgroup.controllers'
check "doctor says so" sh -c 'opsrun doctor | grep "limited *cgroups *v2 without pids: such limits cannot be set"'
check "load" opsrun load busybox-1.tar
web_service web 8080
check "a limit on processes is refused" \
    refused "the pids controller is switched off on the kernel's command line" opsrun start web:1 --pids-limit 60
check "with its name" grep -q "error: could not set the limit pids.max = 60" said
check "and what to do" grep -q "hint: .opsrun doctor. says what the host offers; --allow-unenforced goes without" said
check "other limits hold" opsrun start web:1 --memory 64m
check "in the cgroup" is "$(value web memory.max)" 67108864
check "stats shows no number of processes" sh -c 'opsrun stats | grep "web .* 64 MiB  *-  "'
check "and no zero" sh -c "opsrun stats --json | grep '\"pids\": null'"
check "update refuses it" refused "the pids controller is switched off" opsrun update web --pids-limit 60
check "the service runs on" answers 8080 /
check "stop" opsrun stop web
check "it starts without, by choice" opsrun start web:1 --memory 64m --pids-limit 60 --allow-unenforced
check "which ps shows" sh -c 'opsrun ps | grep "web .*running (unenforced: pids)"'
check "the other limit holds" is "$(value web memory.max)" 67108864
check "stop" opsrun stop web

# Mounted without the right to write, as a container of another tool has it.
mount -o remount,ro /sys/fs/cgroup
check "read-only cgroups are refused" refused "the cgroup file system is mounted read-only" opsrun start web:1
check "with what to do" grep -q "hint: mount -o remount,rw /sys/fs/cgroup" said
check "as doctor says" sh -c 'opsrun doctor | grep "MISSING *cgroups *mounted read-only"'
mount -o remount,rw /sys/fs/cgroup
check "nothing is left" until_true 5 none_left

# What a kernel forbids to everybody is as good as missing. (This guest's has Yama; once it is so, it stays so until a reboot.)
opsrun load --tag busybox:2 busybox-1.tar > /dev/null
check "connections are steered" sh -c 'opsrun doctor | grep "^good  *swap  *steered: no request is lost"'
check "start" opsrun start web:1 --allow-unenforced
echo 3 > /proc/sys/kernel/yama/ptrace_scope
lacks="stop-first, since this host lacks process_vm_readv: Operation not permitted"
opsrun doctor > found 2> hints
check "doctor names what is missing" grep -q "^limited  *process_vm_readv  *Operation not permitted" found
check "and why" grep -q "hint: process_vm_readv: .*; kernel.yama.ptrace_scope=3 forbids it" hints
check "and what follows" grep -q "^limited  *swap  *$lacks" found
check "status says so" sh -c 'opsrun status web | grep "next swap  *'"$lacks"'"'
check "a swap goes the next best way" sh -c 'opsrun swap web 2 --soak 1s > said 2>&1'
check "and says so" grep -q "1 is stopped before 2 starts, since this host lacks process_vm_readv" said
check "the other one serves" is "$(column web 2) $(state web)" "2 running"
check "stop" opsrun stop web
check "nothing is left" until_true 5 none_left
