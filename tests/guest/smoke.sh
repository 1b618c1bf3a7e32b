#!/bin/sh
# Shows that the guests are the hosts they are meant to be, and that scripts/guest tells every way a run can end.
#
#     tests/guest/smoke.sh [bookworm|trixie|minimal]...     all three by default
#
# It needs no opsrun: a static busybox stands in for it.
set -eu
guest=$(realpath "$(dirname "$0")/../../scripts/guest")
inside=$(realpath "$(dirname "$0")/inside.sh")
OPSRUN_BINARY=${OPSRUN_BINARY:-/bin/busybox}
export OPSRUN_BINARY
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0

main() {
    [ $# -gt 0 ] || set -- bookworm trixie minimal
    for kind; do
        began_s=$(date +%s)
        case $kind in minimal) is=--minimal ;; *) is="--debian $kind" ;; esac
        host
        endings
        reboot_and_power_cut
        echo "==> $kind: $(($(date +%s) - began_s)) s"
    done
    exit "$failed"
}

# The host inside is checked from inside; what the script says, leaves and ends with must come out.
host() {
    cp "$inside" "$folder/"
    in_guest inside.sh "$kind" "two words" "it's"
    expect "status of the script" 7 "$status"
    grep -E '^(ok|FAILED|uptime)' "$folder/out" || :
    if grep -q ^FAILED "$folder/out" || ! grep -q '^ok' "$folder/out"; then wrong "the host inside"; fi
    # Before it there may be word of an image being built.
    expect "standard error" "on stderr" "$(tail -n 1 "$folder/err")"
    expect "a file that the script left" "left by it" "$(cat "$folder/left")"
}

endings() {
    echo 'echo here; exec sleep 1000' > "$folder/hangs"
    in_guest --timeout 15 hangs
    expect "a hang: status" 125 "$status"
    expect "a hang: what it wrote before" here "$(cat "$folder/out")"
    says "not done after 15 s (--timeout), while the script was running"

    echo 'echo c > /proc/sysrq-trigger' > "$folder/panics"
    in_guest panics
    expect "a panic: status" 125 "$status"
    says "kernel panicked"
    says "sysrq triggered crash"

    echo 'poweroff -f; sleep 100' > "$folder/ends"
    in_guest ends
    expect "an end of its own: status" 125 "$status"
    says "the script shut the guest down"

    echo 'touch running; exec sleep 1000' > "$folder/waits"
    rm -f "$folder/running"
    # shellcheck disable=SC2086 # two words or one
    "$guest" run $is "$folder/waits" 2>"$folder/err" &
    killed=$!
    until [ -e "$folder/running" ] || ! kill -0 "$killed"; do sleep 0.1; done
    kill -TERM "$killed"
    status=0
    wait "$killed" || status=$?
    expect "killed: status" 143 "$status"
}

reboot_and_power_cut() {
    state=$folder/state
    rm -f "$folder/cut"
    echo 'echo 1 > /var/kept; echo 2 > /tmp/gone' > "$folder/first"
    in_guest --keep "$state" first
    expect "first boot: status" 0 "$status"

    # The cut leaves an ext4 that must replay its journal.
    echo 'cat /var/kept; test -f /run/gone && echo "not rebooted"; echo 3 > /var/synced; sync; touch cut; exec sleep 1000' > "$folder/second"
    in_guest --keep "$state" --power-cut-after cut second
    expect "power cut: status" 0 "$status"
    expect "second boot: what the first left" 1 "$(cat "$folder/out")"
    says "power cut"

    echo 'cat /var/synced; reboot; sleep 100' > "$folder/third"
    in_guest --keep "$state" third
    expect "a reboot of its own: status" 0 "$status"
    expect "boot after a power cut: what was synced" 3 "$(cat "$folder/out")"
    rm -r "$state"
}

in_guest() {
    status=0
    # The script's name is the first word that is no option's.
    for word; do
        shift
        if [ -f "$folder/$word" ] && [ "$word" != cut ]; then word=$folder/$word; fi
        set -- "$@" "$word"
    done
    # shellcheck disable=SC2086 # two words or one
    "$guest" run $is "$@" > "$folder/out" 2> "$folder/err" || status=$?
}

expect() {
    [ "$2" = "$3" ] && return
    wrong "$1: expected '$2', got '$3'"
    sed 's/^/    /' "$folder/err"
}

says() { grep -qF "$1" "$folder/err" || { wrong "no word of '$1' in:"; sed 's/^/    /' "$folder/err"; }; }

wrong() {
    echo "FAILED $kind: $*"
    failed=1
}

main "$@"
