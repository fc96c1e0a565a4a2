"""An application with threads that ends as the path of a request says.

ending_app.py PORT [unread|unaccepted]: with the second word it kills itself when a request waits that it
has not read, or not even accepted.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time


def waits_unread(port):
    """A request waits in the receive queue of an established connection to this port."""
    with open("/proc/net/tcp") as table:
        next(table)
        for line in table:
            words = line.split()
            local, state, queues = words[1], words[3], words[4]
            if local.endswith(":%04X" % port) and state == "01" and int(queues.split(":")[1], 16):
                return True
    return False


def eat():
    """Takes all memory that there is."""
    taken = []
    while True:
        taken.append(bytearray(b"x" * (1 << 20)))


def leave_to_child(end):
    """Ends while a program that it runs holds the connection, which then ends well."""
    watch, watched = os.pipe()
    # The connection goes on in the program; the pipe's end here tells it that this process is gone.
    held = [fd for fd in map(int, os.listdir("/proc/self/fd")) if is_connection(fd)]
    subprocess.Popen(["/bin/cat"], stdin=watch, pass_fds=held)
    end()


def is_connection(fd):
    try:
        return socket.socket(fileno=os.dup(fd)).getpeername() is not None
    except OSError:
        return False


ENDS = {
    "exit0": lambda: os._exit(0),
    "exit9": lambda: os._exit(9),
    "exec": lambda: os.execv("/bin/sleep", ["sleep", "60"]),
    "segv": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "abrt": os.abort,
    "term": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "held_kill": lambda: leave_to_child(lambda: os.kill(os.getpid(), signal.SIGKILL)),
    "held_exit9": lambda: leave_to_child(lambda: os._exit(9)),
    "held_exit0": lambda: leave_to_child(lambda: os._exit(0)),
    "memory": eat,
}


def serve(connection):
    head = b""
    while b"\r\n\r\n" not in head:
        more = connection.recv(4096)
        if not more:
            return
        head += more
    ENDS[head.split(b" ")[1].split(b"/")[-1].decode()]()


def main():
    port, how = int(sys.argv[1]), sys.argv[2:]
    # Threads that the kernel has to stop.
    for _ in range(3):
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    listener = socket.create_server(("127.0.0.1", port))
    connection = None
    if how == ["unaccepted"]:
        while not waits_unread(port):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        connection, _ = listener.accept()
        if how == ["unread"]:
            while not waits_unread(port):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


main()
