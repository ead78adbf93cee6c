"""Which network interface has an address: gloo and NCCL want the name. Linux; standard library only."""

import array
import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

_SIOCGIFCONF = 0x8912
_RECORD = 40  # bytes of struct ifreq on 64-bit machines
_MOST = 128


def interface_of(address: str) -> str:
    """The interface's name, "lo" for every loopback address. Raises ValueError where no interface has the address."""
    wanted = ipaddress.ip_address(address.partition("%")[0])
    wanted = getattr(wanted, "ipv4_mapped", None) or wanted
    if wanted.is_loopback:
        return "lo"
    known = _ipv4() if wanted.version == 4 else _ipv6()
    if str(wanted) not in known:
        raise ValueError(f"no network interface of this machine has the address {address}")
    return known[str(wanted)]


def _ipv4() -> dict[str, str]:
    """SIOCGIFCONF (netdevice(7)): secondary addresses too."""
    buffer = array.array("B", bytes(_MOST * _RECORD))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("iP", len(buffer), buffer.buffer_info()[0])
        length = struct.unpack("iP", fcntl.ioctl(sock.fileno(), _SIOCGIFCONF, request))[0]
    records = (buffer[at : at + _RECORD].tobytes() for at in range(0, length, _RECORD))
    return {socket.inet_ntoa(one[20:24]): one[:16].partition(b"\0")[0].decode().partition(":")[0] for one in records}


def _ipv6(table: Path = Path("/proc/net/if_inet6")) -> dict[str, str]:
    try:
        lines = table.read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines)
    return {str(ipaddress.ip_address(bytes.fromhex(field[0]))): field[5] for field in fields}
