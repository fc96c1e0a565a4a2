"""A gateway that nobody knows by name, in front of a database: asks it for each request, and answers
500 when that fails. `loop` serves all clients in one thread, as node does; `threads` each in its own."""

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
            with socket.create_connection(("127.0.0.1", DATABASE)) as database:
                database.sendall(b"PING\r\n")
                answer = WHOLE if database.recv(100) else FAILED
        except OSError:
            answer = FAILED
        self.wfile.write(answer)
        self.close_connection = True

    def log_message(self, *words):
        pass


async def asked(reader, writer):
    answer = FAILED
    try:
        await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        writer.close()
        return
    try:
        database, to = await asyncio.open_connection("127.0.0.1", DATABASE)
        to.write(b"PING\r\n")
        if await database.read(100):
            answer = WHOLE
        to.close()
    except OSError:
        pass
    writer.write(answer)
    await writer.drain()
    writer.close()


async def loop():
    server = await asyncio.start_server(asked, "127.0.0.1", LISTEN)
    async with server:
        await server.serve_forever()


if HOW == "loop":
    asyncio.run(loop())
else:
    ThreadingHTTPServer(("127.0.0.1", LISTEN), Threaded).serve_forever()
