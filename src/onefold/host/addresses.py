"""Which URLs and addresses a server may be sent to by somebody else's word.

A URL that a customer typed in is an order to this machine to connect somewhere. `checked_url` takes only
URLs that every parser reads alike, and `is_public` knows the addresses that belong to nobody's inner network.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, NamedTuple

from onefold.core.errors import Invalid
from onefold.core.limits import text

URL_LENGTH_MAX = 2_000

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# No user information, no fragment, no backslash, space or control character, nothing beyond ASCII: where
# parsers differ there is nothing to differ on. The last label of a name begins with a letter, so that
# "2130706433", "0x7f.1" and "127.1" are no names.
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?:(?P<name>(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?)"
    rf"|(?P<v4>(?:{_OCTET}\.){{3}}{_OCTET})"
    r"|\[(?P<v6>[0-9a-f:.]{2,45})\])"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?"
    r"(?P<target>/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*)?"
    r"(?:\?(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*)?"
)
UrlText = Annotated[str, text(1, URL_LENGTH_MAX, _URL)]
_HOST_LENGTH_MAX = 253
_PORT_MAX = 65_535
_DEFAULT_PORTS = {"http": 80, "https": 443}

# The special-purpose registries of IANA (RFC 6890 and its successors, as of 2025), and multicast.
_REFUSED_V4 = tuple(map(ipaddress.IPv4Network, (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
    "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
)))  # fmt: skip  The last one is Azure's inner service, on a public address.
# Of IPv6 only what is given out to the world, less what carries or translates to other addresses.
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = tuple(map(ipaddress.IPv6Network, (
    "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
)))  # fmt: skip


class Url(NamedTuple):
    """A URL and what a connection needs of it."""

    text: str
    scheme: str
    host: str
    port: int


def checked_url(text: str) -> Url:
    """The parts of a URL that leaves no room for two readings.

    Raises:
        Invalid: code "url"; it is not "http(s)://name-or-address[:port][/path][?query]" in ASCII, its scheme
            and host in lower case, at most 2,000 characters long. Code "url_host"; it looks so, but there is no
            such port or address, or the name is longer than names can be.
    """
    found = _URL.fullmatch(text) if len(text) <= URL_LENGTH_MAX else None
    if found is None:
        raise Invalid("The URL is not one that can be called.", code="url", length=len(text))
    host = found["name"] or found["v4"] or found["v6"]
    port = int(found["port"] or _DEFAULT_PORTS[found["scheme"]])
    if len(host) > _HOST_LENGTH_MAX or port > _PORT_MAX or (found["v6"] and not _is_v6(host)):
        raise Invalid("The URL's host or port is none.", code="url_host", length=len(text))
    return Url(text, found["scheme"], host, port)


def _is_v6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def is_public(address: Address) -> bool:
    """Whether the address is one of the open internet, not of this machine, its networks or its cloud.

    Addresses of IPv6 that stand for one of IPv4 (mapped, 6to4, Teredo, NAT64) are never public: there is no
    need to reach anything that way.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _REFUSED_V4)
    if address.scope_id is not None or address not in _GLOBAL_V6:
        return False
    return not any(address in network for network in _REFUSED_V6)
