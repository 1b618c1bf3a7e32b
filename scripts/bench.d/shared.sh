# Sourced by every bench, in the repository's top folder: the opsrun that is measured, a folder to work in, medians.
# shellcheck shell=sh
. scripts/needs.sh

# need_opsrun: $OPSRUN is the program that is measured, built for it unless the caller has set it.
need_opsrun() {
    need_rust
    [ -z "${OPSRUN:-}" ] || return 0
    say "building opsrun"
    as_builder cargo build --quiet --release --package opsrun --target "$target"
    OPSRUN=$built/release/opsrun
}

# make_work: $work is a folder that is removed at the end, after the bench's own clear_up.
make_work() {
    # Beside opsrun's own store, since a temporary folder may be in memory.
    mkdir -p /var/tmp
    work=$(mktemp -d /var/tmp/opsrun-bench.XXXXXX)
    trap 'clear_up; rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM HUP
}

# median FILE: of whole numbers, one a line.
median() {
    sort -n "$1" | awk '{ value[NR] = $1 }
        END { middle = int((NR + 1) / 2); print NR % 2 ? value[middle] : int((value[middle] + value[middle + 1]) / 2) }'
}

# seconds MILLISECONDS: as people read them.
seconds() { awk -v ms="$1" 'BEGIN { printf "%.2f s", ms / 1000 }'; }
