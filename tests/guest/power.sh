#!/bin/sh
# Inside a minimal guest whose power is cut: what the last cut has left is looked at, and then the store is changed without
# end, or until the next one.
#
#     power.sh IMAGE WHAT SECONDS
#
# IMAGE is an image file, WHAT is `all` for a load, a save, a removal and a pruning in turn, `load` for loads alone, and
# `nothing` for the look alone. The cut is SECONDS after the first of them has begun; the file `at` names the one that was
# under way, the file `cut` says that it is time.
set -eu
# shellcheck source=tests/guest/shell.sh
. ./shell.sh
image=$1 of=$2 seconds=$3
store=/var/lib/opsrun/store saved=/var/saved.tar

clean() { opsrun fsck > /tmp/broken && is "$(cat /tmp/broken)" ''; }
images() { opsrun images -q | wc -l; }
# An image that is listed has all its files, or fsck would miss some; one that is not can be loaded.
whole() { [ "$(images)" -le 2 ] && clean; }
nothing_aside() { is "$(ls -A $store/tmp)" ''; }
saved_is_whole() { [ ! -e $saved ] || OPSRUN_ROOT=/var/other opsrun load $saved; }

if [ -e $store ]; then
    check "fsck finds nothing wrong" clean
    check "there are whole images or none" whole
    echo "    $(images) images, $(find $store/layers/sha256 -mindepth 1 -maxdepth 1 | wc -l) layers, $(find $store/tmp | wc -l) files aside"
    check "what was saved is whole" saved_is_whole
    rm -rf /var/other
fi
check "a load" opsrun load "$image"
check "fsck finds nothing wrong after it" clean
check "nothing is left aside" nothing_aside
check "the image can be saved" opsrun save -o /tmp/saved.tar "$(opsrun images -q | head -n 1)"
rm -f /tmp/saved.tar
[ "$of" != nothing ] || exit 0

opsrun rmi "$(opsrun images -q | head -n 1)" 2> /dev/null || :
sync
step() { echo "$1" > ./at; }
change() {
    while :; do
        step load
        opsrun load --tag it:1 "$image"
        if [ "$of" = load ]; then
            opsrun rmi it:1
            continue
        fi
        step save
        opsrun save -o $saved it:1
        step rmi
        opsrun rmi it:1
        step "load and tag"
        opsrun load --tag it:1 "$image"
        opsrun load --tag it:2 "$image"
        step "rmi of a name"
        opsrun rmi it:1
        step "prune"
        opsrun prune
        opsrun rmi it:2
    done
}
change > /tmp/changes 2>&1 &
busybox sleep "$seconds"
touch cut
exec busybox sleep 1000
