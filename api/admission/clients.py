"""The client address a request counts for: the connection's, or what a trusted proxy names."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

UNKNOWN = "unknown"
"""What has no address counts together: a socket in the file system."""
MAX_HOPS = 20
_MAX_LENGTH = 64
_IPV6_PREFIX = 64
"""What one customer gets at least: https://www.rfc-editor.org/rfc/rfc6177"""

Address = IPv4Address | IPv6Address


class Clients:
    """Finds client addresses.

    `trusted`: networks such as 10.0.0.0/8, whose X-Forwarded-For is believed.

    Raises ValueError where one is no network.
    """

    def __init__(self, trusted: Sequence[str] = ()) -> None:
        self._trusted = [ip_network(network, strict=False) for network in trusted]

    def of(self, peer: str | None, headers: Mapping[str, str]) -> str:
        """Return the IPv4 address, or the IPv6 /64, of whoever asks.

        `headers` by lower-case name; of several lines the last, which the nearest proxy wrote.
        The client is the rightmost hop that is no trusted proxy: what is left of it is hearsay.
        """
        client = _address(peer or "")
        if client is None:
            return UNKNOWN
        if self._is_trusted(client):
            hops = headers.get("x-forwarded-for", "").rsplit(",", MAX_HOPS)[-MAX_HOPS:]
            for hop in reversed(hops):
                address = _address(hop)
                if address is None:
                    break
                client = address
                if not self._is_trusted(client):
                    break
        return _subject(client)

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


@lru_cache(4096)
def _parse(text: str) -> Address | None:
    if text.startswith("["):  # [::1]:8080
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:  # 192.0.2.1:8080
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _address(text: str) -> Address | None:
    text = text.strip()
    return _parse(text) if len(text) <= _MAX_LENGTH else None


@lru_cache(4096)
def _subject(address: Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((address, _IPV6_PREFIX), strict=False))
