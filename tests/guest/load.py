"""Asks a server again and again, each time over a new connection and without a second try, until the file `enough` is there.

    load.py PORT CLIENTS PAUSE_MS

Writes to the file `load` how often it asked and who has answered, and to the file `failed` each request that failed.
"""

import collections
import os
import socket
import sys
import threading
import time

PORT, CLIENTS, PAUSE_S = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) / 1000
answers, slowest, failures = collections.Counter(), [0.0], []


def ask():
    with socket.create_connection(("127.0.0.1", PORT), timeout=30) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ")[1:2]
    if status != [b"200"] or not body.endswith(b"\n"):
        raise ValueError(f"answered {answer[:80]!r}")
    return body.decode().strip()


def client():
    while not os.path.exists("enough"):
        began = time.monotonic()
        try:
            answers[ask()] += 1
        except (OSError, ValueError) as error:
            failures.append(f"{time.strftime('%H:%M:%S')} after {time.monotonic() - began:.2f} s: {error}")
        slowest[0] = max(slowest[0], time.monotonic() - began)
        time.sleep(PAUSE_S)


clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
for each in clients:
    each.start()
for each in clients:
    each.join()
with open("failed", "w") as file:
    file.writelines(f"{failure}\n" for failure in failures)
with open("load", "w") as file:
    words = ", ".join(f"{count} by {word}" for word, count in sorted(answers.items()))
    file.write(f"{sum(answers.values())} answers ({words}), {len(failures)} failed, the slowest {slowest[0]:.2f} s\n")
