"""Which address counts, with and without proxies."""

import pytest

from api.admission.clients import UNKNOWN, Clients

PROXIES = ("10.0.0.0/8", "fd00::/8", "127.0.0.1")


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.7", None, "192.0.2.7"),
        # who is no proxy of ours may say what they like
        ("192.0.2.7", "198.51.100.1", "192.0.2.7"),
        ("10.1.2.3", None, "10.1.2.3"),
        ("10.1.2.3", "198.51.100.1", "198.51.100.1"),
        ("10.1.2.3", "  198.51.100.1  ", "198.51.100.1"),
        ("10.1.2.3", "198.51.100.1:5060", "198.51.100.1"),
        # rightmost untrusted hop: what stands left of it the client may have written
        ("10.1.2.3", "1.1.1.1, 198.51.100.1", "198.51.100.1"),
        ("10.1.2.3", "1.1.1.1, 198.51.100.1, 10.9.9.9", "198.51.100.1"),
        ("10.1.2.3", "10.7.7.7, 10.9.9.9", "10.7.7.7"),
        # what is no address ends the chain at the last hop that was one
        ("10.1.2.3", "198.51.100.1, unknown", "10.1.2.3"),
        ("10.1.2.3", "198.51.100.1, unknown, 10.9.9.9", "10.9.9.9"),
        ("10.1.2.3", "1" * 100_000, "10.1.2.3"),
        ("10.1.2.3", ",,,", "10.1.2.3"),
        ("10.1.2.3", "", "10.1.2.3"),
        # an IPv6 customer has a /64
        ("2001:db8:1:2:3:4:5:6", None, "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", None, "2001:db8:1:2::/64"),
        ("fd00::1", "[2001:db8::9]:443", "2001:db8::/64"),
        ("fe80::1%eth0", None, "fe80::/64"),
        # IPv4 by way of IPv6 is IPv4
        ("::ffff:192.0.2.7", None, "192.0.2.7"),
        ("::ffff:10.1.2.3", "198.51.100.1", "198.51.100.1"),
        (None, "198.51.100.1", UNKNOWN),
        ("", None, UNKNOWN),
        ("/run/api.sock", "198.51.100.1", UNKNOWN),
    ],
)
def test_client_of_a_request(peer: str | None, forwarded: str | None, client: str) -> None:
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    assert Clients(PROXIES).of(peer, headers) == client


def test_client_without_trusted_proxies_is_the_peer() -> None:
    assert Clients().of("127.0.0.1", {"x-forwarded-for": "1.2.3.4"}) == "127.0.0.1"


def test_client_chain_of_many_hops_is_read_from_the_right_to_a_bound() -> None:
    hops = ", ".join(["198.51.100.1", *["10.0.0.1"] * 5000])
    assert Clients(PROXIES).of("10.1.2.3", {"x-forwarded-for": hops}) == "10.0.0.1"


def test_clients_network_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        Clients(("nonsense",))
