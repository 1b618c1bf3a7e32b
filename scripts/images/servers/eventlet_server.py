"""Serves the application by eventlet, as an OpenStack service without a web server of its own does."""

import os

import eventlet

eventlet.monkey_patch()

import eventlet.wsgi  # noqa: E402

from application import application  # noqa: E402

listener = eventlet.listen((os.environ["address"], int(os.environ["port"])))
eventlet.wsgi.server(listener, application, log_output=False)
