"""Recognise the socket on which a host's flintlockd listens, so that two agents beside one flintlockd are noticed."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from billet.adapters.identity import BOOT_ID, read_id

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
LISTEN = "0A"
LOOK_EVERY_S = 10.0  # a machine with many connections has a long table

IP = ipaddress.IPv4Address | ipaddress.IPv6Address


class DaemonSocket:
    """The listening socket at an address of this machine, by the number that the kernel has given it."""

    def __init__(self, host: str, port: int) -> None:
        """Resolve the address, which may take a while."""
        self._port = port
        self._addresses = set(_local(host, port))
        self._boot = read_id(BOOT_ID)
        self._id, self._looked_s = "", -LOOK_EVERY_S

    def __call__(self) -> str:
        """The boot id and the socket's number; "" when the address is another machine's, or nobody listens."""
        now_s = time.monotonic()
        if self._addresses and now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            inodes = sorted(set(listening(self._addresses, self._port)))
            self._id = f"{self._boot}:{','.join(inodes)}" if inodes and self._boot else ""
        return self._id


def listening(addresses: set[IP], port: int) -> Iterator[str]:
    """The inode numbers of the sockets that listen at this port of one of these addresses, or of all addresses."""
    suffix = f":{port:04X}"
    for table in TABLES:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split(None, 10)
            if len(fields) > 9 and fields[3] == LISTEN and fields[1].endswith(suffix):
                address = _parsed(fields[1].partition(":")[0])
                if address.is_unspecified or address in addresses:
                    yield fields[9]


def _parsed(text: str) -> IP:
    """An address of /proc/net/tcp: hexadecimal words in the byte order of the machine."""
    words = [bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, len(text), 8)]
    return _plain(ipaddress.ip_address(b"".join(words)))


def _plain(address: IP) -> IP:
    return getattr(address, "ipv4_mapped", None) or address


def _local(host: str, port: int) -> Iterator[IP]:
    """The addresses of this machine that a name stands for."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return
    own = {entry.address.partition("%")[0] for entries in psutil.net_if_addrs().values() for entry in entries}
    for *_, (name, *_rest) in found:
        address = _plain(ipaddress.ip_address(str(name).partition("%")[0]))
        if address.is_loopback or str(address) in own:
            yield address
