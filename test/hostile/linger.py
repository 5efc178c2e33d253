"""A peer that sends descriptors whose close waits: TCP sockets with SO_LINGER and bytes that nobody reads.

usage: python3 linger.py PATH WAY, where WAY says how they are sent. Prints "sent" or why they could not be.
"""

import signal
import socket
import struct
import sys

from peer import READY, SHARED_MEMORY, STREAMS, Peer, hello, memory, receive_message

LINGER_SECONDS = 600
# What the sockets are connected to, so that it stays open.
kept = []


def lingering():
    listener = socket.create_server(("127.0.0.1", 0))
    sender = socket.create_connection(listener.getsockname())
    kept.append(listener)
    sender.setblocking(False)
    try:
        while True:
            sender.send(bytes(1 << 16))
    except BlockingIOError:
        pass
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_SECONDS))
    return sender


def send(connection, data, count, flags=0):
    """Sends bytes with `count` lingering sockets of which no other reference is left."""
    sockets = [lingering() for _ in range(count)]
    numbers = struct.pack(f"{count}i", *(one.fileno() for one in sockets))
    connection.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)], flags)
    for one in sockets:
        one.close()


def main(path, way):
    signal.alarm(120)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    if way == "with the greeting":
        send(connection, hello(SHARED_MEMORY), 2)
    elif way == "with bytes that are no greeting":
        connection.send(b"x" * 64)
        send(connection, b"x", 1)
    elif way == "as frames of a socket":
        connection.send(hello(STREAMS))
        receive_message(connection)
        send(connection, bytes(64), 1)
    elif way == "as the memory that was asked for":
        connection.send(hello(SHARED_MEMORY))
        if receive_message(connection)[0] == READY:
            send(connection, memory(), 2)
    else:
        kept.append(Peer(connection))
        if way == "without their byte":
            send(connection, b"\0", 1)
        elif way == "two with one byte":
            send(connection, b"\1", 2)
        elif way == "more than a control buffer holds":
            send(connection, b"\1", 100)
        elif way == "behind a violation":
            connection.send(b"\5")
            send(connection, b"\1", 1)
        elif way == "as a region":
            send(connection, b"\1", 1)
        elif way == "out of band":
            send(connection, b"\1", 1, socket.MSG_OOB)
            connection.send(b"\0")
        else:
            raise ValueError(way)


try:
    main(*sys.argv[1:3])
    print("sent", flush=True)
except OSError as error:
    print(error.strerror, flush=True)
# Until the test ends, so that the lingering sockets wait.
sys.stdin.read()
