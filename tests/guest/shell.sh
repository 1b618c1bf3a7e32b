# shellcheck shell=sh
# What the scripts that run inside a guest share: every claim is one `check`, and the first that does not hold ends the script.

check() {
    what=$1
    shift
    if "$@" > /tmp/said 2>&1; then
        echo "ok $what"
    else
        echo "FAILED $what: \`$*\` ended with $?: $(cat /tmp/said)"
        opsrun ps || :
        tail -n 20 "${OPSRUN_ROOT:-}"/var/log/opsrun/*/*.log 2>/dev/null || :
        if command -v journalctl > /dev/null; then journalctl --no-pager -n 40 -u 'opsrun@*'; fi
        exit 1
    fi
}

fails() { ! "$@"; }

# refused TEXT COMMAND...: it fails, and with this among its words, which are in the file `said` then.
refused() {
    text=$1
    shift
    if "$@" > said 2>&1; then
        echo "it went well"
        return 1
    fi
    cat said
    grep -qF -e "$text" said
}

is() { [ "$1" = "$2" ] || { echo "expected '$2', got '$1'"; false; }; }

# until_true SECONDS COMMAND...: waits for a condition.
until_true() {
    tries=$(($1 * 5))
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        busybox sleep 0.2
    done
}

# opsrun ps's word for a column of a service's line: 3 is the state.
column() { opsrun ps | awk -v service="$1" -v column="$2" '$1 == service { print $column }'; }
state() { column "$1" 3; }
process() { opsrun inspect "$1" | sed -n 's/^ *"process": \([0-9]*\),*$/\1/p' | head -n 1; }
supervisor() { opsrun inspect "$1" | sed -n 's/^ *"supervisor": \([0-9]*\),*$/\1/p' | head -n 1; }

# The cgroup of a service's container, and what a file of it says.
leaf() { find /sys/fs/cgroup -type d -name "$1-g*"; }
value() { cat "$(leaf "$1")/$2"; }

# An event of a service, by its kind and what it says.
event() { opsrun events "$1" | grep -e " $2 .*$3"; }

# Hundredths of a second since the boot.
uptime_cs() { sed 's/\.\([0-9]*\) .*/\1/' /proc/uptime; }

answers() { busybox wget -q -O /tmp/answer "http://127.0.0.1:$1$2"; }

# A web service of busybox as SERVICE on PORT; further lines for its settings.
web_service() {
    mkdir -p "/opt/$1/conf" /etc/opsrun
    echo "listen=127.0.0.1:$2" > "/opt/$1/conf/busybox.conf"
    cat > "/etc/opsrun/$1.toml" <<END
image = "busybox"
ports = [$2]
${3:-}
health = { check = "http", path = "/", interval = "1s", timeout = "5s", start_timeout = "60s" }
stop = { grace = "10s" }
restart = { backoff_first = "100ms", backoff_max = "200ms", crash_loop_failures = 3 }
END
}

# Everything of a container: processes in a cgroup of opsrun's, overlays in the host's mount table.
left_over() {
    find /sys/fs/cgroup -path '*opsrun*' -name cgroup.procs ! -path '*opsrun@*' -exec cat {} + 2>/dev/null
    find /sys/fs/cgroup -type d -name 'opsrun-*.scope'
    grep overlay /proc/mounts
}
none_left() { [ -z "$(left_over)" ]; }
