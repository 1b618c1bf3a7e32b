"""Answers with the word of its configuration, as late and as badly as that says."""

import os
import time

BEGAN = time.monotonic()
DELAY, WARM, FAILS_AFTER = (float(os.environ[name]) for name in ("delay", "warm", "fails_after"))
FAILS, WORD = os.environ["fails"], os.environ["word"]


def application(environ, start_response):
    time.sleep(DELAY)
    age = time.monotonic() - BEGAN
    status = "200 OK"
    if age < WARM:
        status = "503 Service Unavailable"
    elif FAILS and environ["PATH_INFO"].startswith(FAILS) and age >= FAILS_AFTER:
        status = "500 Internal Server Error"
    body = f"{WORD}\n".encode()
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
