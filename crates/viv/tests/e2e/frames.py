"""Frames as root inside a sandbox can make them, whatever its own kernel thinks of them."""

import ipaddress
import socket
import struct

UDP, TCP = 17, 6


def checksum(data):
    total = sum(struct.unpack("!%dH" % ((len(data) + 1) // 2), data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def hardware(address):
    return bytes.fromhex(address.replace(":", ""))


def packet(source, target, protocol, port, payload=b""):
    """A datagram, or the first segment of a connection."""
    source, target = ipaddress.ip_address(source), ipaddress.ip_address(target)
    if protocol == UDP:
        head = lambda check: struct.pack("!HHHH", 40000, port, 8 + len(payload), check)
    else:
        head = lambda check: struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 0x50, 2, 65535, check, 0)
    length = len(head(0)) + len(payload)
    pseudo = source.packed + target.packed
    pseudo += struct.pack("!BBH", 0, protocol, length) if target.version == 4 else struct.pack("!II", length, protocol)
    body = head(checksum(pseudo + head(0) + payload)) + payload
    if target.version == 6:
        return struct.pack("!IHBB", 6 << 28, length, protocol, 64) + source.packed + target.packed + body
    ends = source.packed + target.packed
    front = lambda check: struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 64, protocol, check) + ends
    return front(checksum(front(0))) + body


def send(to, sender, content):
    kind = 0x0806 if content[:2] == b"\0\1" else 0x0800 if content[0] >> 4 == 4 else 0x86DD
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    wire.bind(("eth0", 0))
    wire.send(hardware(to) + hardware(sender) + struct.pack("!H", kind) + content)


def own():
    return open("/sys/class/net/eth0/address").read().strip()


def ask(address, port):
    """What a server says, or how the connection fails."""
    try:
        with socket.create_connection((address, port), 120) as stream:
            said = b""
            while piece := stream.recv(100):
                said += piece
            return said.decode()
    except OSError as error:
        return type(error).__name__ if error.errno is None else error.strerror
