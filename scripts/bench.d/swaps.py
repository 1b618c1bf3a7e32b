"""Swaps one server a number of times while clients ask it, and prints what they have seen and how long it took, as JSON.

Called by `swap`, which prepares everything. The ways: steered, gated and stop-first are opsrun's; overlap and shared do without
opsrun, in a chroot of the same image: the new server is started beside the old one, with SO_REUSEPORT or on the same
listening socket, and the old one is asked to end when the new one has answered three times.
"""

import argparse
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

PATIENCE = 120
SETTLES = 2
# Runs in a mount namespace of its own, and becomes the server.
IN_CHROOT = """
set -eu
root=$1 user=$2; shift 2
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
while [ "$1" != -- ]; do mount --bind "${1%%=*}" "$root${1#*=}"; shift; done
shift
exec chroot --userspec="$user" "$root" env -i "$@"
"""


class OpsrunWay:
    """opsrun's own swap, steered or not."""

    def __init__(self, options):
        self.options = options
        self.environment = dict(os.environ)
        if options.way == "gated":
            self.environment["OPSRUN_TEST_LACKS"] = "group"

    def start(self, word):
        self.configure(word)
        # It looks anew at what the kernel can do, which is another one now for all that opsrun knows.
        subprocess.run([os.environ["OPSRUN"], "doctor"], capture_output=True, check=False, env=self.environment)
        self.opsrun("start", f"{self.options.server}:{self.options.releases[0]}")

    def swap(self, number, word):
        """How long it took, milliseconds: until the new one was healthy, until connections had ended, and in all."""
        self.configure(word)
        releases = self.options.releases
        more = ["--stop-first"] if self.options.way == "stop-first" else []
        began = time.monotonic()
        done = self.opsrun("swap", self.options.server, releases[(number + 1) % 2], "--soak", "0s", *more)
        total = time.monotonic() - began
        left = re.search(r"; (\d+) .*still open when", done.stderr)
        events = self.opsrun("events", self.options.server, "--json").stdout.splitlines()
        return {"total": 1000 * total, "left": int(left[1]) if left else 0, **self.times(map(json.loads, events))}

    def times(self, events):
        at = {}
        for event in events:
            when = int(event["at"][11:13]) * 3600 + int(event["at"][14:16]) * 60 + float(event["at"][17:-1])
            if event["event"] == "swap-began":
                at = {"way": event["details"]["way"], "new": event["generation"], "old": event["details"]["from"]}
            side = {at.get("new"): "new", at.get("old"): "old"}.get(event["generation"])
            at.setdefault((side, event["event"]), when)
        if at["way"] != self.options.way:
            sys.exit(f"the swap went {at['way']}, not {self.options.way}")
        healthy = at["new", "healthy"]
        times = {"healthy": 1000 * (healthy - at["new", "swap-began"])}
        if at["way"] == "steered":
            times["drain"] = 1000 * (at["old", "stopping"] - healthy)
        return {name: ms % 86_400_000 for name, ms in times.items()}

    def configure(self, word):
        if self.options.conf:
            folder = pathlib.Path(os.environ["OPSRUN_ROOT"], "opt", self.options.server, "conf")
            folder.joinpath("servers.conf").write_text(filled(self.options.conf, word))

    def opsrun(self, *arguments):
        done = subprocess.run(
            [os.environ["OPSRUN"], *arguments], capture_output=True, text=True, check=False, env=self.environment
        )
        # Taken over, and a probe right after was refused: by a worker of the new one that is not warm yet, where it is not
        # proven for long beside the old one.
        not_warm = done.returncode == 4 and arguments[0] == "swap" and self.options.way != "steered"
        if done.returncode != 0 and not not_warm:
            sys.exit(f"opsrun {' '.join(arguments)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def stop(self):
        self.opsrun("stop", self.options.server)


class PlainWay:
    """Two servers on one port, by what the kernel offers to everybody."""

    def __init__(self, options):
        self.options = options
        self.running = []
        self.listener = None
        if options.way == "shared":
            self.listener = socket.create_server(("127.0.0.1", options.port), backlog=1024)

    def start(self, word):
        options = self.options
        binds = list(options.bind)
        if options.conf:
            folder = pathlib.Path(options.work, f"conf-{word}")
            folder.mkdir()
            folder.joinpath("servers.conf").write_text(filled(options.conf, word))
            binds.append(f"{folder}=/etc/servers")
        environment = {
            "PATH": options.path,
            "LD_PRELOAD": "/listener.so",
            "LISTENER_PORT": options.port,
            # A way to see which one has answered where the application does not tell.
            "UWSGI_ADD_HEADER": f"Word: {word}",
        }
        if self.listener:
            environment["LISTENER"] = self.listener.fileno()
        words = [f"{name}={value}" for name, value in environment.items()] + options.environment.split()
        self.running.append(
            subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", IN_CHROOT, "sh", options.root, options.user, *binds, "--", *words, "/service.sh"],
                stdin=subprocess.DEVNULL,
                stdout=open(f"{options.work}/log", "a"),
                stderr=subprocess.STDOUT,
                pass_fds=[self.listener.fileno()] if self.listener else [],
            )
        )
        self.until_answers(word)

    def until_answers(self, word):
        until, seen = time.monotonic() + PATIENCE, 0
        while seen < 3:
            if time.monotonic() > until or self.running[-1].poll() is not None:
                sys.exit(f"{self.options.server} was not seen to answer:\n" + open(f"{self.options.work}/log").read()[-2000:])
            answer = ask(self.options.port, self.options.health)
            seen += re.match(r"HTTP/1.\d [23]", answer) is not None and word in answer
            time.sleep(0.02)

    def swap(self, number, word):
        began = time.monotonic()
        self.start(word)
        healthy = time.monotonic() - began
        self.end(self.running.pop(0))
        return {"healthy": 1000 * healthy, "total": 1000 * (time.monotonic() - began), "left": 0}

    def end(self, server):
        server.send_signal(signal.Signals[self.options.signal])
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()

    def stop(self):
        while self.running:
            self.end(self.running.pop())


def filled(template, word):
    return pathlib.Path(template).read_text().replace("@word@", word)


def ask(port, path):
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    except OSError:
        return ""


def main():
    parser = argparse.ArgumentParser()
    for name in ("server", "way", "signal", "work", "root", "path", "environment", "health", "conf", "clients", "mode"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--user", default="0:0")
    parser.add_argument("--port", type=int)
    parser.add_argument("--swaps", type=int)
    parser.add_argument("--bind", action="append", default=[])
    parser.add_argument("--releases", nargs=2)
    parser.add_argument("asking", nargs="*", help="what the clients are told")
    options = parser.parse_args()
    way = (PlainWay if options.way in ("overlap", "shared") else OpsrunWay)(options)
    clients = None
    try:
        way.start("w0")
        # Its other workers may still be warming up, which is no swap's fault.
        time.sleep(SETTLES)
        clients = subprocess.Popen(
            [options.clients, f"127.0.0.1:{options.port}", *options.asking],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        time.sleep(1)
        swaps = [way.swap(number, f"w{number + 1}") for number in range(options.swaps)]
        time.sleep(1)
        seen = json.loads(clients.communicate()[0])
    finally:
        if clients and clients.poll() is None:
            clients.kill()
        way.stop()
    times = {
        name: [round(swap[name]) for swap in swaps] for name in ("healthy", "drain", "total", "left") if name in swaps[0]
    }
    row = {"server": options.server, "clients": options.mode, "way": options.way, "swaps": options.swaps, **seen, **times}
    print(json.dumps(row))


main()
