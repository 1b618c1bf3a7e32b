#!/bin/sh
# Inside a minimal guest with Linux 5.10, which is too old: doctor says so and names what else it lacks, and a start in vain
# says what it came to and leaves nothing.
set -eu
# shellcheck source=tests/guest/shell.sh
. ./shell.sh
check "this is Linux 5.10" sh -c 'uname -r | grep "^5\.10\."'
check "doctor does not let it pass" refused "1 of what opsrun needs is missing" opsrun doctor
opsrun doctor > found 2> hints || :
check "it says why" grep -q "^MISSING  *kernel  *Linux 5\.10\." found
check "and what it takes" grep -q "hint: kernel: opsrun needs Linux 5.12 or later" hints
check "what steering lacks is named" grep -q "^limited  *WAIT_KILLABLE_RECV  *Invalid argument" found
check "and which Linux has it" grep -q "hint: WAIT_KILLABLE_RECV: Linux 5.19 or later has it" hints
check "it would do all the same" grep -q "^good  *swap  *steered: no request is lost" found
check "load" opsrun load busybox-1.tar
web_service web 8080
check "a start fails" refused "could not create the container" opsrun start web:1
check "and says why" grep -q "caused by: Linux 5\.10\..* is too old: opsrun needs Linux 5.12 or later" said
check "there is no service" refused "there is no service web" opsrun status web
check "nothing is left" until_true 5 none_left
