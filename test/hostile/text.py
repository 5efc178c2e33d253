"""A peer that changes its arena all the time, so that decoders of text, which make two passes, see two texts.

usage: python3 text.py PATH. Sends requests of bytes to TestService/Echo, and prints "sent" after the last one.
"""

import os
import signal
import socket
import struct
import sys
import time

from peer import METHOD, REQUEST, Peer

REQUESTS = 300
BYTES = 1 << 20
BLOCK = 4096
END_STREAM = 1
# The field `data` of EchoRequest, and the length as a varint.
INLINE = b"\x1a\x80\x80\x40"
WIDE = "\u6f22".encode() * 341


def change(arena, parent):
    """Text that is longer in the second pass than in the first makes a decoder write past its end."""
    while os.getppid() == parent:
        for at in range(BLOCK, BLOCK + BYTES - 1024, 1024):
            arena[at : at + len(WIDE)] = WIDE
        arena[BLOCK : BLOCK + BYTES] = b"a" * BYTES
    os._exit(0)


signal.alarm(300)
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
peer = Peer(connection, 1 << 23)
peer.arena[BLOCK : BLOCK + BYTES] = b"a" * BYTES
parent = os.getpid()
if os.fork() == 0:
    change(peer.arena, parent)
peer.frame(METHOD, metadata=b"/isthmus.test.TestService/Echo")
for request in range(1, REQUESTS + 1):
    span = struct.pack("<6I", len(INLINE), BYTES, 1, 1, 0, 0)
    peer.frame(REQUEST, END_STREAM, request << 16, body=INLINE, message_length=BYTES + len(INLINE), spans=span)
    peer.publish()
    time.sleep(0.01)
print("sent", flush=True)
