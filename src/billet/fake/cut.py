"""Cut one client's TCP connection to a running gRPC server.

gRPC gives no access to its sockets, but they are file descriptors of this process: the one whose remote port is the
peer's is shut down through a duplicate. The client sees the end of the connection in the middle of its call, as it
does when a host's network breaks; other clients notice nothing.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

import psutil


def cut(peer: str) -> bool:
    """Close the connection of a gRPC peer such as "ipv4:127.0.0.1:54321". False if there is none."""
    port = int(peer.rpartition(":")[2])
    found = False
    for connection in psutil.Process().net_connections("tcp"):
        if connection.raddr and connection.raddr.port == port and connection.fd >= 0:
            with suppress(OSError), socket.socket(fileno=os.dup(connection.fd)) as duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)
                found = True
    return found
