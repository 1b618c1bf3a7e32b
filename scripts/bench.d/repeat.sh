#!/bin/sh
# repeat.sh COUNT LOG COMMAND...: runs a command so many times in a row and prints the microseconds that each took, on
# average: the clock, itself a program, is started twice only. Ends when one fails.
set -eu
count=$1 log=$2 times=0
shift 2
began=$(date +%s%N)
while [ "$times" -lt "$count" ]; do
    times=$((times + 1))
    "$@" > "$log" 2>&1
done
ended=$(date +%s%N)
echo $(((ended - began) / 1000 / count))
