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

# make_disk_image BYTES FILES: $work/disk.img, an ext4 with a journal and room for so many files, from which nothing was ever
# removed, with nothing left to be done in the background.
make_disk_image() {
    rm -f "$work/disk.img"
    truncate -s "$1" "$work/disk.img"
    mkfs.ext4 -q -F -N "$2" -E lazy_itable_init=0,lazy_journal_init=0 "$work/disk.img"
}

# median FILE: of whole numbers, one a line.
median() {
    sort -n "$1" | awk '{ value[NR] = $1 }
        END { middle = int((NR + 1) / 2); print NR % 2 ? value[middle] : int((value[middle] + value[middle + 1]) / 2) }'
}

# seconds MILLISECONDS: as people read them.
seconds() { awk -v ms="$1" 'BEGIN { printf "%.2f s", ms / 1000 }'; }

# make_clients: $work/clients, a program that asks as clients do.
make_clients() {
    # Whoever builds it need not be who measures, and must be able to write beside it.
    chmod 711 "$work"
    install -d -m 777 "$work/program"
    as_builder rustc --edition 2024 -O -o "$work/program/clients" scripts/bench.d/clients.rs
    install "$work/program/clients" "$work/clients"
}

# stop_services: for clear_up, whatever runs below $OPSRUN_ROOT.
stop_services() {
    for folder in "$OPSRUN_ROOT"/var/lib/opsrun/services/*; do
        [ ! -e "$folder" ] || "$OPSRUN" stop "$(basename "$folder")" > /dev/null 2>&1 || true
    done
}

# free_port: one that nobody listens on now.
free_port() { python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])'; }
