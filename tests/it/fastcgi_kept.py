"""FastCGI that keeps its connections and answers each request with the status that its path ends with."""

import re
import socket
import struct
import sys
import threading

PARAMS, STDIN, STDOUT, END = 4, 5, 6, 3


def exact(connection, length):
    read = b""
    while len(read) < length:
        more = connection.recv(length - len(read))
        if not more:
            raise EOFError
        read += more
    return read


def record(kind, body):
    return struct.pack(">BBHHBB", 1, kind, 1, len(body), 0, 0) + body


def serve(connection):
    try:
        while True:
            params, kind, length = b"", None, None
            while (kind, length) != (STDIN, 0):
                _, kind, _, length, padding, _ = struct.unpack(">BBHHBB", exact(connection, 8))
                body = exact(connection, length)
                exact(connection, padding)
                if kind == PARAMS:
                    params += body
            status = re.search(rb"/(\d{3})\b", params)[1]
            head = b"Status: " + status + b" Said\r\nContent-Type: text/plain\r\n\r\nsaid"
            done = record(END, struct.pack(">IB3x", 0, 0))
            connection.sendall(record(STDOUT, head) + record(STDOUT, b"") + done)
    except (EOFError, OSError):
        pass
    finally:
        connection.close()


listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
