#!/bin/sh
# Inside a guest: a real keystone is set up, started and enabled; the host is then shut down.
set -eu
# shellcheck source=tests/guest/shell.sh
. ./shell.sh
if [ -d /run/systemd/system ]; then
    OPSRUN_BINARY=/usr/local/bin/opsrun check "install" ./install
else
    # As a host's own init scripts would.
    printf '#!/bin/sh\n/usr/local/bin/opsrun boot > /var/log/boot 2>&1\n' > /etc/rc.start
fi
check "load" opsrun load keystone-zed.tar
check "config init" opsrun config init keystone
sed -i 's|^\[database\]$|&\nconnection = sqlite:////var/lib/keystone/keystone.db|' /opt/keystone/conf/keystone.conf
# As `keystone-manage fernet_setup` makes them, which takes half a minute here.
keys=/opt/keystone/conf/fernet-keys
mkdir -p $keys /etc/opsrun
for key in 0 1; do head -c 32 /dev/urandom | base64 | tr '+/' '-_' > $keys/$key; done
chown -R 42425:42425 $keys
chmod 700 $keys
chmod 600 $keys/*
# One processor, which also does the host's work.
printf 'health = { check = "http", path = "/v3", timeout = "20s", start_timeout = "10m" }\n[limits]\nmemory = "512m"\n' > /etc/opsrun/keystone.toml
check "db_sync" opsrun run --rm keystone:zed keystone-manage db_sync
check "start" opsrun start keystone:zed
check "it answers" answers 5000 /v3
check "within 512 MiB" is "$(value keystone memory.max)" 536870912
check "it is keystone" grep -q '"id": *"v3' /tmp/answer
if [ -d /run/systemd/system ]; then
    agree() { is "$(state keystone) $(systemctl is-active opsrun@keystone)" "$1"; }
    check "opsrun and systemd agree" agree "running active"
    check "systemctl stop" systemctl stop opsrun@keystone
    check "it answers no more" fails answers 5000 /v3
    check "both say so" agree "stopped inactive"
    check "nothing is left" until_true 5 none_left
    check "systemctl start" systemctl start opsrun@keystone
    check "it answers" answers 5000 /v3
    check "both say so" agree "running active"
    container=$(process keystone)
    check "systemctl restart" systemctl restart opsrun@keystone
    check "it answers" answers 5000 /v3
    check "as another container" fails is "$(process keystone)" "$container"
    check "both say so" agree "running active"
    check "within 512 MiB" is "$(value keystone memory.max)" 536870912
fi
check "enable" opsrun enable keystone
sync
