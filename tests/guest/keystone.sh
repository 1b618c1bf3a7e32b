#!/bin/sh
# Inside a guest: a real keystone is set up, started and enabled; the host is then shut down.
set -eu
# shellcheck source=tests/guest/shell.sh
. ./shell.sh
if [ -d /run/systemd/system ]; then
    OPSRUN_BINARY=/usr/local/bin/opsrun check "install" ./install
else
    # As a host's own init scripts would.
    printf '#!/bin/sh\nopsrun boot > /var/log/boot 2>&1\n' > /etc/rc.start
fi
check "load" opsrun load keystone-zed.tar
check "config init" opsrun config init keystone
sed -i 's|^\[database\]$|&\nconnection = sqlite:////var/lib/keystone/keystone.db|' /opt/keystone/conf/keystone.conf
mkdir -p /etc/opsrun
# One processor, which also does the host's work.
printf 'health = { check = "http", path = "/v3", timeout = "20s", start_timeout = "200s" }\n' > /etc/opsrun/keystone.toml
check "db_sync" opsrun run --rm keystone:zed keystone-manage db_sync
check "start" opsrun start keystone:zed
check "it answers" answers 5000 /v3
check "it is keystone" grep -q '"id": *"v3' /tmp/answer
if [ -d /run/systemd/system ]; then
    check "systemctl stop" systemctl stop opsrun@keystone
    check "it is stopped" is "$(state keystone)" stopped
    check "systemctl start" systemctl start opsrun@keystone
    check "it answers again" answers 5000 /v3
fi
check "enable" opsrun enable keystone
sync
