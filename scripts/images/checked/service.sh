#!/bin/sh
# Lives until SIGINT.
trap 'echo stopped; exit 0' INT
echo started
while :; do sleep 3600 & wait $!; done
