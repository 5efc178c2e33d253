"""A peer that sends descriptors whose close waits: TCP sockets with SO_LINGER and bytes that nobody reads.

usage: python3 linger.py PATH WAY, where WAY says how they are sent. Prints "sent" or why they could not be.
"""

import fcntl
import mmap
import os
import signal
import socket
import struct
import sys

LINGER_SECONDS = 600
SHARED_MEMORY, SPANS, STREAMS = 1, 2, 4
ADD_SEALS = 1033
SEGMENT_MAGIC = 0x48545349
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


def hello(features):
    return struct.pack("<IIHHHHIIII", 0x4D545349, 32, 1, 0, 1, 1, features, 0, 64, 1 << 20)


def segment(size, header, seals):
    descriptor = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    memory = mmap.mmap(descriptor, size)
    memory[0 : len(header)] = header
    fcntl.fcntl(descriptor, ADD_SEALS, seals)
    kept.append(memory)
    return descriptor


ACCEPTED, READY = 2, 4


def receive_kind(connection):
    """Receives a message of the handshake, and returns its kind."""
    prefix, _, _, _ = socket.recv_fds(connection, 8, 4, socket.MSG_WAITALL)
    length = struct.unpack("<4xI", prefix)[0]
    rest, _, _, _ = socket.recv_fds(connection, length - 8, 4, socket.MSG_WAITALL)
    return rest[0]


def memory():
    return struct.pack("<IIHHI", 0x4D545349, 16, 5, 0, 0)


def open_honestly(connection):
    ring = segment(65536 + 65536, struct.pack("<6I", SEGMENT_MAGIC, 1, 1, 65536 + 65536, 65536, 4096), 23)
    arena = segment(1 << 20, struct.pack("<4I", SEGMENT_MAGIC, 1, 2, 1 << 20), 7)
    greeting = hello(SHARED_MEMORY | SPANS | STREAMS)
    try:
        socket.send_fds(connection, [greeting], [ring, arena])
    except PermissionError:
        connection.send(greeting)
    kind = receive_kind(connection)
    if kind == READY:
        socket.send_fds(connection, [memory()], [ring, arena])
        kind = receive_kind(connection)
    assert kind == ACCEPTED, kind


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
        receive_kind(connection)
        send(connection, bytes(64), 1)
    elif way == "as the memory that was asked for":
        connection.send(hello(SHARED_MEMORY))
        if receive_kind(connection) == READY:
            send(connection, memory(), 2)
    else:
        open_honestly(connection)
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
