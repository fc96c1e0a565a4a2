"""An upstream that speaks FastCGI, uwsgi or HTTP as little as it must, and misbehaves as the path says.

    server.py http|https|fastcgi|uwsgi|h2 127.0.0.1:PORT|/path/of/socket [order|certificate]

Each connection is served by a process of its own: an order may end it.
"""

import os
import signal
import socket
import ssl
import struct
import sys
import time

BODY = b"x" * 20000


def answer(protocol, code, body, cut=None):
    """The bytes of an answer; of its body only the first `cut`, and nothing behind."""
    sent = body if cut is None else body[:cut]
    if protocol in ("http", "https"):
        head = "HTTP/1.1 %d Told\r\nContent-Length: %d\r\n\r\n" % (code, len(body))
        return head.encode() + sent
    if protocol == "uwsgi":
        head = "HTTP/1.0 %d Told\r\nContent-Length: %d\r\n\r\n" % (code, len(body))
        return head.encode() + sent
    if protocol == "h2":
        # The field :status, by name from the static table (RFC 7541, 6.2.2).
        head = b"\x08\x03%d" % code
        whole = cut is None
        return frame(1, 4, 1, head) + frame(0, 1 if whole else 0, 1, sent)
    head = "Status: %d Told\r\nContent-Length: %d\r\n\r\n" % (code, len(body))
    content = head.encode() + sent
    # FCGI_STDOUT (6), then FCGI_END_REQUEST (3).
    out = struct.pack(">BBHHBx", 1, 6, 1, len(content), 0) + content
    if cut is None:
        out += struct.pack(">BBHHBx", 1, 3, 1, 8, 0) + bytes(8)
    return out


def frame(kind, flags, number, payload=b""):
    """A frame of HTTP/2 (RFC 9113, 4.1)."""
    return struct.pack(">BHBBI", 0, len(payload), kind, flags, number) + payload


def request_of_h2(stream):
    """Reads until the HEADERS of the first request, beginning with SETTINGS (RFC 9113, 3.4)."""
    stream.sendall(frame(4, 0, 0))
    seen, at = b"", len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    while True:
        while len(seen) < at + 9 or len(seen) < at + 9 + int.from_bytes(seen[at:at + 3], "big"):
            some = stream.recv(65536)
            if not some:
                raise OSError("nothing was asked")
            seen += some
        kind, flags = seen[at + 3], seen[at + 4]
        at += 9 + int.from_bytes(seen[at:at + 3], "big")
        if kind == 4 and not flags & 1:
            stream.sendall(frame(4, 1, 0))
        if kind == 1:
            return


def order_of(asked):
    at = asked.find(b"/order-")
    if at < 0:
        return None
    word = asked[at + len("/order-"):]
    end = 0
    while end < len(word) and word[end:end + 1].isalnum():
        end += 1
    return word[:end].decode() if end < len(word) else None


def serve(protocol, stream, more):
    if protocol == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(more)
        stream = context.wrap_socket(stream, server_side=True)
    if protocol == "h2":
        # What is asked is compressed.
        request_of_h2(stream)
        asked = ("/order-%s." % more).encode()
    else:
        asked = b""
    while order_of(asked) is None:
        some = stream.recv(65536)
        if not some:
            return
        asked += some
    # The rest of the request, which may come in pieces: left unread, it would turn FIN into RST.
    time.sleep(0.02)
    stream.setblocking(False)
    try:
        while stream.recv(65536):
            pass
    except (BlockingIOError, ssl.SSLWantReadError):
        pass
    stream.setblocking(True)
    order = order_of(asked)
    if order == "ok":
        stream.sendall(answer(protocol, 200, b"fine"))
    elif order.startswith("own"):
        stream.sendall(answer(protocol, int(order[3:]), b"own"))
    elif order == "fin":
        pass
    elif order == "rst":
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif order == "exit":
        os._exit(9)
    elif order == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif order in ("cutfin", "cutrst"):
        stream.sendall(answer(protocol, 200, BODY, cut=9000))
        time.sleep(0.1)
        if order == "cutrst":
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif order == "hang":
        time.sleep(60)
    stream.close()


def main(protocol, address, more=None):
    if address.startswith("/"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
    else:
        host, port = address.rsplit(":", 1)
        listener = socket.socket(socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    while True:
        stream, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            try:
                serve(protocol, stream, more)
            except OSError:
                pass
            os._exit(0)
        stream.close()


main(*sys.argv[1:])
