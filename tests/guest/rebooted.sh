#!/bin/sh
# Inside a guest that was booted again: what was enabled serves without anybody's doing.
#
#     rebooted.sh SERVICE PORT PATH
set -eu
# shellcheck source=tests/guest/shell.sh
. ./shell.sh
check "$1 answers by itself" until_true 200 answers "$2" "$3"
check "opsrun knows" until_true 10 is "$(state "$1")" running
if [ -d /run/systemd/system ]; then
    check "so does systemd" systemctl is-active --quiet "opsrun@$1"
fi
check "stop" opsrun stop "$1"
check "nothing is left" until_true 5 none_left
