"""A gateway that nobody knows by name, in front of a database: asks it for each request, waits a second at
most, and answers 500 when that fails. `loop` serves all clients in one thread, as node does; `kept` does so
too and asks on one connection that it keeps; `threads` serves each client in its own."""

import asyncio
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOW, LISTEN, DATABASE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
FAILED = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Threaded(BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            with socket.create_connection(("127.0.0.1", DATABASE), timeout=1) as database:
                database.sendall(b"PING\r\n")
                answer = WHOLE if database.recv(100) else FAILED
        except OSError:
            answer = FAILED
        self.wfile.write(answer)
        self.close_connection = True

    def log_message(self, *words):
        pass


KEPT = []


async def connection():
    if HOW != "kept":
        return await asyncio.open_connection("127.0.0.1", DATABASE)
    if not KEPT:
        KEPT.append(await asyncio.open_connection("127.0.0.1", DATABASE))
    return KEPT[0]


async def asked(reader, writer):
    answer, to = FAILED, None
    try:
        await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        writer.close()
        return
    try:
        database, to = await connection()
        to.write(b"PING\r\n")
        if await asyncio.wait_for(database.read(100), 1):
            answer = WHOLE
    except (OSError, asyncio.TimeoutError):
        pass
    finally:
        if to and (answer is FAILED or HOW != "kept"):
            to.close()
            KEPT.clear()
    writer.write(answer)
    await writer.drain()
    writer.close()


async def loop():
    server = await asyncio.start_server(asked, "127.0.0.1", LISTEN)
    async with server:
        await server.serve_forever()


if HOW == "threads":
    ThreadingHTTPServer(("127.0.0.1", LISTEN), Threaded).serve_forever()
else:
    asyncio.run(loop())
