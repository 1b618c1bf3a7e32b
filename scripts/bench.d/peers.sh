# Sourced by the benches that run containers: opsrun and its peers with one small image each, what each of them needs to
# run here, and the table.
# shellcheck shell=sh disable=SC2034,SC2154 # what the benches set, and what they use
#
# A bench sets `runs` (rounds) and, in `figure`, measures; the rows are in `rows`, opsrun's first, and each has its samples
# in $work/ROW.us, or, where it cannot be had on this host, the reason in $work/ROW.why. `goal_of` says what is to be reached.
. scripts/bench.d/shared.sh

# bench NAME [OPTION...]: all of a bench but its figure.
bench() {
    name=$1 form=table small=
    shift
    while [ $# -gt 0 ]; do
        case $1 in
        --runs) [ $# -gt 1 ] || usage; runs=$2; shift ;;
        --json) form=json ;;
        --small) small=yes ;;
        *) usage ;;
        esac
        shift
    done
    [ -z "$small" ] || runs=1
    case $runs in '' | *[!0-9]* | 0) usage ;; esac
    need_root
    { begin; figure; } >&2
    # Several in a row have one.
    [ "$form" != table ] || [ -n "${BENCH_WORK:-}" ] || head_of_table
    "$form"
}

usage() { echo "usage: scripts/bench $name [--runs N] [--small] [--json]" >&2; exit 2; }

# Several benches in a row share what `all` has prepared.
begin() {
    if [ -n "${BENCH_WORK:-}" ]; then
        work=$BENCH_WORK disk=$BENCH_WORK/disk
        trap 'end_services' EXIT
        rm -f "$work"/*.us "$work"/*.why
    else
        need_packages buildah busybox-static ca-certificates conmon crun docker.io e2fsprogs gcc jq libc6-dev mmdebstrap \
            mount musl-tools netavark podman procps python3-minimal runc skopeo util-linux
        [ ! -d /run/systemd/system ] || need_packages systemd-container
        need_opsrun
        make_work
        # The script's, whoever is called by it.
        export OPSRUN
        mount_disk
        prepare_peers
    fi
    export OPSRUN_ROOT="$disk/opsrun"
    name_podman
    view=
    [ ! -x "$work/view" ] || view=$work/view
    say "$name: load average $(cut -d ' ' -f 1-3 /proc/loadavg)"
}

clear_up() {
    end_services
    [ ! -e "$work/docker.pid" ] || stop_docker
    podman_ runc rm --all --force --volumes > /dev/null 2>&1 || true
    umount "$disk/podman/overlay" "$work/run/docker/netns/default" 2> /dev/null || true
    umount "$disk/opsrun/run" "$work/run" "$disk" || true
}

end_services() {
    [ ! -d "$disk/opsrun/var/lib/opsrun/services" ] || OPSRUN_ROOT=$disk/opsrun "$OPSRUN" ps --quiet \
        | OPSRUN_ROOT=$disk/opsrun xargs -r -n 1 -P 4 "$OPSRUN" rm --force > /dev/null 2>&1 || true
}

# $disk, on which all of them keep their images and containers: a file system with a journal, as hosts have, from which nothing
# was removed before. (ext4 without one looks at every inode that was removed within a minute when it makes a new one, so that
# each tool would wait for what the others have left.) Its read-ahead is Linux's own, 128 KiB, whatever the disk below has, and
# past it nothing is in memory. What is in /run on a host is in memory here as well.
mount_disk() {
    disk=$work/disk
    make_disk_image 4G 200000
    mkdir -p "$disk" "$work/run"
    loop=$(losetup --find --show --direct-io=on "$work/disk.img")
    blockdev --setra 256 "$loop"
    mount "$loop" "$disk"
    # It goes with the mount.
    losetup --detach "$loop"
    mount -t tmpfs tmpfs "$work/run"
    mkdir -p "$disk/opsrun/run"
    mount -t tmpfs tmpfs "$disk/opsrun/run"
}

# --- the peers ---

prepare_peers() {
    archive=$(scripts/image busybox 1)
    OPSRUN_ROOT=$disk/opsrun "$OPSRUN" load "$archive" > /dev/null
    podman_ runc load --quiet --input "$archive" > /dev/null
    make_view
    make_bundle
    start_docker
}

# On a host whose cgroups are not v2 alone crun refuses to work: then it gets a view of the host in which they are.
make_view() {
    [ "$(stat --file-system --format %T /sys/fs/cgroup)" != cgroup2fs ] || return 0
    cat > "$work/view" << 'END'
#!/bin/sh
exec unshare --mount sh -c 'mount --make-rprivate / && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"' view "$@"
END
    chmod +x "$work/view"
}

# A bundle for runc and crun: as opsrun writes it for the same image, with Docker's seccomp profile, and the root file
# system a plain folder that is there already.
make_bundle() {
    mkdir -p "$disk/bundle/rootfs" "$disk/opsrun/etc/opsrun"
    for layer in "$disk"/opsrun/var/lib/opsrun/store/images/sha256/*/image.json; do
        for digest in $(jq -r '.layers[]' "$layer" | cut -d : -f 2); do
            cp -a "$disk/opsrun/var/lib/opsrun/store/layers/sha256/$digest/root/." "$disk/bundle/rootfs/"
        done
    done
    opsrun_service model
    start_service model
    # Device rules are left out: to make them, crun 1.8 raises a limit that not every root may raise.
    jq 'del(.annotations, .linux.cgroupsPath, .linux.resources) | .process.args = ["/bin/true"]
        | .mounts |= map(select(.type != "bind"))' \
        "$disk/opsrun/var/lib/opsrun/services/model/generations/1/config.json" > "$disk/bundle/config.json"
    OPSRUN_ROOT=$disk/opsrun "$OPSRUN" rm --force model > /dev/null
    mkdir "$disk/sleeping"
    ln -s "$disk/bundle/rootfs" "$disk/sleeping/rootfs"
    jq --arg root "$disk/bundle/rootfs" '.process.args = ["/bin/sleep", "1000000"] | .root.path = $root' \
        "$disk/bundle/config.json" > "$disk/sleeping/config.json"
}

# opsrun_service NAME [PORT]: the file of a service that sleeps, or that serves a page on a port and is asked for it each second.
opsrun_service() {
    mkdir -p "$disk/opsrun/etc/opsrun" "$disk/opsrun/opt/$1/conf"
    cp "$disk/bundle/rootfs/etc/busybox/busybox.conf" "$disk/opsrun/opt/$1/conf/"
    if [ -n "${2:-}" ]; then
        cat > "$disk/opsrun/etc/opsrun/$1.toml" << END
image = "busybox"
command = ["httpd", "-f", "-p", "127.0.0.1:$2", "-h", "/www"]
ports = [$2]
health = { check = "http", path = "/", interval = "1s" }
stop = { grace = "1s" }
END
    else
        cat > "$disk/opsrun/etc/opsrun/$1.toml" << END
image = "busybox"
command = ["sleep", "1000000"]
health = { check = "runs", runs_for = "1ms" }
stop = { grace = "1s" }
END
    fi
}

start_service() {
    OPSRUN_ROOT=$disk/opsrun "$OPSRUN" start "$1" > "$work/log" 2>&1 || { cat "$work/log" >&2; die "opsrun start $1 failed"; }
}

# $podman_words: with folders of its own.
name_podman() {
    podman_words="podman --root $disk/podman --runroot $work/run/podman --storage-driver overlay --cgroup-manager cgroupfs"
}

# Limits that even a root without CAP_SYS_RESOURCE may set; podman would raise them.
podman_() {
    runtime=$1
    shift
    name_podman
    # shellcheck disable=SC2086 # a list of words
    $podman_words --runtime "$runtime" "$@"
}
podman_limits="--network host --ulimit nofile=1000:1000 --ulimit nproc=1000:1000"

# A daemon of its own, with nothing of the host's: it changes no rules of the network, and has no socket of anybody's.
start_docker() {
    dockerd --data-root "$disk/docker" --exec-root "$work/run/docker" --pidfile "$work/docker.pid" \
        --host "unix://$work/docker.sock" --iptables=false --ip6tables=false --bridge=none > "$work/dockerd.log" 2>&1 &
    tries=0
    until docker_ version > /dev/null 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" -ge 150 ]; then
            grep -v level=info "$work/dockerd.log" | tail -n 1 > "$work/docker-is-not-here"
            rm -f "$work/docker.pid"
            return 0
        fi
        sleep 0.2
    done
    skopeo copy --quiet "oci-archive:$archive" "docker-archive:$work/image.tar:busybox:1"
    docker_ load --quiet --input "$work/image.tar" > /dev/null
}

docker_() { docker --host "unix://$work/docker.sock" "$@"; }

stop_docker() {
    docker_ ps --all --quiet | while read -r container; do docker_ rm --force "$container" > /dev/null; done
    daemon=$(cat "$work/docker.pid")
    kill "$daemon" 2> /dev/null || true
    while [ -e "/proc/$daemon" ]; do sleep 0.1; done
}

# --- the rows ---

title_of() {
    case $1 in
    opsrun) echo "opsrun" ;;
    podman-runc) echo "podman with runc" ;;
    podman-crun) echo "podman with crun" ;;
    runc) echo "runc, a ready bundle" ;;
    crun) echo "crun, a ready bundle" ;;
    nspawn) echo "systemd-nspawn" ;;
    *) echo "$1" ;;
    esac
}

# try ROW COMMAND...: whether the command works here; otherwise the row says why not.
try() {
    row=$1
    shift
    if "$@" > "$work/log" 2>&1; then return 0; fi
    { grep -v '^$' "$work/log" || echo "it failed without a word"; } | tail -n 1 | cut -c 1-160 > "$work/$row.why"
    return 1
}

# try_podman: with each runtime; crun outside the view of it, since containers that stay would be in another one than commands.
try_podman() {
    for runtime in runc crun; do
        # shellcheck disable=SC2086 # a list of words
        try "podman-$runtime" podman_ "$runtime" run --rm $podman_limits localhost/busybox:1 /bin/true || true
    done
}

# sample ROW COUNT COMMAND...: one sample, the mean of so many in a row; crun's in the view that it needs.
sample() {
    row=$1 count=$2
    shift 2
    [ ! -e "$work/$row.why" ] || return 0
    [ -z "$small" ] || count=1
    case $row in crun | podman-crun) in_view=$view ;; *) in_view= ;; esac
    # shellcheck disable=SC2086 # nothing, or one word
    $in_view sh scripts/bench.d/repeat.sh "$count" "$work/log" "$@" >> "$work/$row.us" ||
        { cat "$work/log" >&2; die "$(title_of "$row") failed"; }
}

# goal_of ROW: the most that opsrun's row may be, or opsrun's median by the row's; nothing where there is no goal.
goal_of() { :; }

unit_of() { echo "$unit"; }

head_of_table() {
    echo "$(versions) on Linux $(uname -r), $(nproc) processors"
    printf '%-40s  %11s  %24s  %6s  %s\n' "" MEDIAN "LEAST TO MOST" RATIO GOAL
}

versions() {
    # shellcheck disable=SC2016 # dpkg-query's
    dpkg-query --show --showformat '${Package} ${Version}, ' podman docker.io runc crun conmon | sed 's/, $//'
}

table() {
    printf '%s\n' "$heading"
    for row in $rows; do
        if [ -e "$work/$row.why" ]; then
            printf '  %-38s  not on this host: %s\n' "$(title_of "$row")" "$(cat "$work/$row.why")"
            continue
        fi
        [ -e "$work/$row.us" ] || continue
        range=$(sort -n "$work/$row.us" | awk -v unit="$(unit_of "$row")" 'NR == 1 { least = $1 } { most = $1 }
            END { printf "%.2f to %.2f %s", least / 1000, most / 1000, unit }')
        printf '  %-38s  %11s  %24s  %6s  %s\n' "$(title_of "$row")" \
            "$(median "$work/$row.us" | awk -v unit="$(unit_of "$row")" '{ printf "%.2f %s", $1 / 1000, unit }')" \
            "$range" "$(ratio "$row")" "$(verdict "$row")"
    done
}

# verdict ROW: its goal, and whether that is reached.
verdict() {
    goal=$(goal_of "$1")
    [ -z "$goal" ] || if is_met "$1"; then echo "<= $goal: met"; else echo "<= $goal: missed"; fi
}

is_met() {
    case $1 in
    opsrun*) median "$work/$1.us" | awk -v goal="$(goal_of "$1")" '{ exit !($1 <= goal * 1000) }' ;;
    *) ratio "$1" | awk -v goal="$(goal_of "$1")" '{ exit !($1 <= goal) }' ;;
    esac
}

# ratio ROW: opsrun's by the row's; of opsrun's other rows there is none.
ratio() {
    case $1 in opsrun*) return 0 ;; esac
    awk -v ours="$(median "$work/${rows%% *}.us")" -v theirs="$(median "$work/$1.us")" \
        'BEGIN { if (theirs > 0) printf "%.3f", ours / theirs }'
}

# One object; values are thousandths of the unit.
json() {
    for row in $rows; do
        if [ -e "$work/$row.why" ]; then
            jq --null-input --arg tool "$(title_of "$row")" --rawfile why "$work/$row.why" \
                '{$tool, not_here: ($why | rtrimstr("\n"))}'
        elif [ -e "$work/$row.us" ]; then
            met=null
            [ -z "$(goal_of "$row")" ] || if is_met "$row"; then met=true; else met=false; fi
            jq --slurp --arg tool "$(title_of "$row")" --arg unit "$(unit_of "$row")/1000" --arg ratio "$(ratio "$row")" \
                --arg median "$(median "$work/$row.us")" --arg goal "$(goal_of "$row")" --argjson met "$met" \
                '{$tool, $unit, median: ($median | tonumber), least: min, most: max, ratio: ($ratio | tonumber? // null),
                goal: ($goal | tonumber? // null), $met, all: .}' "$work/$row.us"
        fi
    done | jq --slurp --arg bench "$name" --arg cpus "$(nproc)" --arg kernel "$(uname -r)" --arg tools "$(versions)" \
        '{version: 1, $bench, $tools, cpus: ($cpus | tonumber), $kernel, rows: .}'
}
