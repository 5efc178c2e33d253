"""A raw peer of protocol version 1, for attacks that need another process than Node's: segments, handshake, frames."""

import ctypes
import fcntl
import mmap
import os
import socket
import struct

SHARED_MEMORY, SPANS, STREAMS = 1, 2, 4
ADD_SEALS = 1033
SEGMENT_MAGIC = 0x48545349
ACCEPTED, READY = 2, 4
RING_BYTES = 65536
# Of a ring segment: where the words and the frames are.
TAIL, HEAD, SLEEP, FRAMES = 4096, 4224, 4352, 65536
REQUEST, METHOD = 1, 11


def hello(features):
    return struct.pack("<IIHHHHIIII", 0x4D545349, 32, 1, 0, 1, 1, features, 0, 64, 1 << 20)


def memory():
    return struct.pack("<IIHHI", 0x4D545349, 16, 5, 0, 0)


def segment(size, header, seals):
    descriptor = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    mapped = mmap.mmap(descriptor, size)
    mapped[0 : len(header)] = header
    fcntl.fcntl(descriptor, ADD_SEALS, seals)
    return descriptor, mapped


def receive_message(connection):
    """Receives a message of the handshake. Returns its kind and descriptors."""
    prefix, first, _, _ = socket.recv_fds(connection, 8, 4, socket.MSG_WAITALL)
    length = struct.unpack("<4xI", prefix)[0]
    rest, more, _, _ = socket.recv_fds(connection, length - 8, 4, socket.MSG_WAITALL)
    return rest[0], first + more


class Peer:
    """A client that has shaken hands honestly."""

    def __init__(self, connection, arena_bytes=1 << 20):
        self.connection = connection
        header = struct.pack("<6I", SEGMENT_MAGIC, 1, 1, FRAMES + RING_BYTES, RING_BYTES, 4096)
        ring, self.ring = segment(FRAMES + RING_BYTES, header, 23)
        arena, self.arena = segment(arena_bytes, struct.pack("<4I", SEGMENT_MAGIC, 1, 2, arena_bytes), 7)
        greeting = hello(SHARED_MEMORY | SPANS | STREAMS)
        try:
            socket.send_fds(connection, [greeting], [ring, arena])
        except PermissionError:
            connection.send(greeting)
        kind, descriptors = receive_message(connection)
        if kind == READY:
            socket.send_fds(connection, [memory()], [ring, arena])
            kind, descriptors = receive_message(connection)
        assert kind == ACCEPTED, kind
        self.peer_ring = mmap.mmap(descriptors[0], 0, mmap.MAP_SHARED, mmap.PROT_READ)
        self.tail = 0
        self.rung = 0

    def peer_word(self, at):
        return struct.unpack("=I", self.peer_ring[at : at + 4])[0]

    def set_word(self, at, value):
        ctypes.c_uint32.from_buffer(self.ring, at).value = value

    def frame(self, kind, flags=0, stream=0, metadata=b"", body=b"", message_length=None, spans=b""):
        """Writes a frame at the tail. There must be room for it, up to the end of the ring."""
        length = 32 + len(metadata) + len(spans) + len(body)
        total = len(body) if message_length is None else message_length
        fields = (length, kind, flags, 0, stream, 0, len(metadata), total, len(body), len(spans) // 24)
        frame = struct.pack("<IBBHIIIIII", *fields) + metadata + spans + body
        at = FRAMES + (self.tail & (RING_BYTES - 1))
        self.ring[at : at + len(frame)] = frame
        self.tail = (self.tail + len(frame) + 7) & -8 & 0xFFFFFFFF

    def publish(self):
        """Shows the frames, and rings if the peer sleeps and waits for frames. Takes what has come."""
        self.set_word(TAIL, self.tail)
        sleep = self.peer_word(SLEEP)
        if sleep & 9 == 9 and sleep != self.rung:
            self.rung = sleep
            self.connection.send(b"\0")
        self.set_word(HEAD, self.peer_word(TAIL))
