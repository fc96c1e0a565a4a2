"""An application behind a proxy: it answers 500 of its own to /bug, and to no other path.

`cache` asks a cache for each request, and goes on without it when that fails; `export` sends telemetry by
a thread of its own, fifty times a second."""

import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LISTEN, BESIDE, HOW = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]


def ask():
    try:
        with socket.create_connection(("127.0.0.1", BESIDE), timeout=1) as beside:
            beside.sendall(b"\x00ask\n")
            beside.recv(10)
    except OSError:
        pass


def export():
    while True:
        ask()
        time.sleep(0.02)


class Application(BaseHTTPRequestHandler):
    def do_GET(self):
        if HOW == "cache":
            ask()
        time.sleep(0.005)
        self.send_response(500 if self.path.startswith("/bug") else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *words):
        pass


if HOW == "export":
    threading.Thread(target=export, daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", LISTEN), Application).serve_forever()
