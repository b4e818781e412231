"""The destinations of dispatcher: their attributes, states, sets, and the two places that they are read from. Part of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple

from polykemi.errors import ParseError
from polykemi.sip.flow import Listener, find_listener
from polykemi.sip.grammar import to_ip
from polykemi.sip.header import parse_params
from polykemi.sip.uri import Uri, parse_uri

log = logging.getLogger("polykemi.dispatcher")

# flags of a destination
INACTIVE: Final = 1
TRYING: Final = 2
DISABLED: Final = 4
PROBING: Final = 8
NO_DNS: Final = 16
STATES: Final = 31
SKIPPED: Final = INACTIVE | DISABLED  # such a destination is not chosen

SLOTS: Final = 100  # of the lists that spread calls by weight
_MAX_HOST: Final = 254
_SPACES: Final = " \t\r\n"
_MASK: Final = 0xFFFFFFFF


class BadDestination(ValueError):
    """A destination that cannot be used: the text says why."""


class Row(NamedTuple):
    """A destination as it was entered."""

    setid: int
    uri: str
    flags: int = 0
    priority: int = 0
    attrs: str = ""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a state changed, for $dsv."""

    code: int
    uri: str
    setid: int
    reason: str = ""
    flags: int = 0  # 1: there was a reply


class Attributes:
    """What the attributes of a destination say: ``duid=a;weight=50;socket=udp:192.0.2.1:5060``."""

    __slots__ = (
        "body",
        "congestion_control",
        "duid",
        "latency",
        "maxload",
        "obproxy",
        "ping_from",
        "rweight",
        "socket",
        "sockname",
        "weight",
    )

    def __init__(self, body: str) -> None:
        self.body = body = body.removesuffix(";")
        params = {name: value or "" for name, value in parse_params(body).items()} if body else {}
        self.duid = params.get("duid", "")
        self.socket = params.get("socket", "")
        self.sockname = params.get("sockname", "")
        self.ping_from = params.get("ping_from", "")
        self.obproxy = params.get("obproxy", "")
        self.maxload = _number(params.get("maxload", ""))  # calls, 0: no limit
        self.congestion_control = _number(params.get("cc", "")) != 0
        self.latency = _number(params.get("latency", "-1"))  # milliseconds, -1: not told
        self.weight = _weight(params, "weight", body)
        self.rweight = _weight(params, "rweight", body)


def _number(text: str) -> int:
    digits = text[1:] if text[:1] in ("-", "+") else text
    return int(text) if digits.isascii() and digits.isdecimal() and len(digits) < 10 else 0


def _weight(params: dict[str, str], name: str, body: str) -> int:
    if name not in params:
        return 0
    weight = _number(params[name])
    if 1 <= weight <= 100:
        return weight
    log.error("%s: %s is not within 1 and 100", body, name)
    return 0


class Destination:
    """One destination of a set: where it is, and how it does."""

    __slots__ = (
        "address",
        "attrs",
        "failures",
        "flags",
        "host",
        "latency",
        "listener",
        "load",
        "pinged",
        "port",
        "priority",
        "proto",
        "setid",
        "uri",
    )

    def __init__(self, row: Row, uri: Uri, attrs: Attributes, listener: Listener | None) -> None:
        self.setid = row.setid
        self.uri = uri.text
        self.host = uri.host
        self.port = uri.port  # 0: any
        self.proto = uri.transport  # "": not told
        self.address = packed(uri.host)  # b"" for a name
        self.flags = row.flags
        self.priority = row.priority
        self.attrs = attrs
        self.listener = listener  # to send from, None: chosen by the transport
        self.load = 0  # calls that are counted
        self.failures = 0  # probes without answer in a row, or answers in a row while inactive
        self.pinged = 0.0  # when it was probed last, seconds since the epoch
        self.latency = Latency()
        if attrs.latency >= 0:
            self.latency.begin(attrs.latency, Latency.TRAINED)

    @property
    def is_skipped(self) -> bool:
        """Whether it is inactive or disabled."""
        return self.flags & SKIPPED != 0

    @property
    def state(self) -> str:
        """The state in two letters, as RPC shows it: A, I, D or T, then P (probed) or X."""
        flags = self.flags
        first = "I" if flags & INACTIVE else "D" if flags & DISABLED else "T" if flags & TRYING else "A"
        return first + ("P" if flags & PROBING else "X")


class Latency:
    """How long a destination takes to answer, in milliseconds: an average over weeks and an estimate of the last minutes."""

    __slots__ = ("average", "count", "deviation", "estimate", "maximum", "minimum", "squares", "timeouts")

    TRAINED: Final = 10000  # as many samples as an average that is not in doubt has
    _FULL: Final = 1 << 21
    _FEW: Final = 10

    def __init__(self) -> None:
        self.begin(0, 0)
        self.timeouts = 0

    def begin(self, latency: int, count: int) -> None:
        """Start from ``latency``, as if it had been measured ``count`` times."""
        self.minimum = self.maximum = latency
        self.average = self.estimate = float(latency)
        self.deviation = self.squares = 0.0
        self.count = count

    def add(self, latency: int, alpha: float) -> None:
        """Take one measurement; ``alpha`` is the weight of what the estimate was so far (0 to 1)."""
        if self.count < self._FULL:
            self.count += 1
        else:
            self.squares -= self.squares / self.count
        if self.count == 1:
            self.begin(latency, 1)
        if self._FEW < self.count < self.TRAINED and self.deviation < 0.5:
            self.count = self.TRAINED
        self.minimum = min(self.minimum, latency)
        self.maximum = max(self.maximum, latency)
        if self.count > 1:  # Welford's algorithm
            before = latency - self.average
            self.average += before / self.count
            self.squares += before * (latency - self.average)
            self.deviation = float((self.squares / (self.count - 1)) ** 0.5) if self.squares > 0 else 0.0
        few = self.count < self._FEW
        self.estimate = self.average if few else self.estimate * alpha + latency * (1 - alpha)

    @property
    def congestion(self) -> int:
        """By how much the estimate exceeds the average."""
        return int(self.estimate - self.average)


class DestinationSet:
    """The destinations of one set, the highest priority first, and where the algorithms that take turns stand."""

    __slots__ = ("destinations", "id", "last", "rwlast", "rwlist", "wlast", "wlist")

    def __init__(self, setid: int, destinations: list[Destination], random: Callable[[], Random]) -> None:
        self.id = setid
        # of equal ones the last entered comes first, as in Kamailio: hashes choose by position
        self.destinations = sorted(destinations, key=lambda d: d.priority)[::-1]
        self.last = self.wlast = self.rwlast = 0
        self.wlist = self._by_weight(random)
        self.rwlist = [0] * SLOTS
        self.spread(random)

    def _by_weight(self, random: Callable[[], Random]) -> list[int]:
        """Return the positions of destinations, each as often as its weight in percent says."""
        if not self.destinations[0].attrs.weight:
            return [0] * SLOTS
        slots = [i for i, d in enumerate(self.destinations) for _ in range(d.attrs.weight)][:SLOTS]
        slots += [len(self.destinations) - 1] * (SLOTS - len(slots))
        random().shuffle(slots)
        return slots

    def spread(self, random: Callable[[], Random]) -> None:
        """Fill ``rwlist``: the positions of active destinations, each as often as its share of their relative weights."""
        if len(self.destinations) < 2:
            return
        active = [(i, d.attrs.rweight) for i, d in enumerate(self.destinations) if not d.is_skipped]
        total = sum(weight for _, weight in active)
        if not total:
            return
        slots = [i for i, weight in active for _ in range(weight * SLOTS // total)]
        slots += [slots[-1] if slots else len(self.destinations) - 1] * (SLOTS - len(slots))
        random().shuffle(slots)
        self.rwlist = slots

    def find(self, uri: str) -> Destination | None:
        """Return the destination with this URI (in any case)."""
        uri = uri.lower()
        return next((d for d in self.destinations if d.uri.lower() == uri), None)

    def find_duid(self, duid: str) -> Destination | None:
        """Return the destination with this unique id (in any case)."""
        duid = duid.lower()
        return next((d for d in self.destinations if d.attrs.duid.lower() == duid), None)


def packed(host: str) -> bytes:
    """Return the octets of an IP address, b"" for a host name."""
    address = to_ip(host)
    return address.packed if address is not None else b""


def make(row: Row, listeners: Sequence[Listener], default: Listener | None, *, no_attrs: str = "") -> Destination:
    """Return the destination of ``row``; without attributes it has ``no_attrs``. Raise BadDestination."""
    try:
        uri = parse_uri(row.uri)
        if uri.scheme not in ("sip", "sips", "tel"):
            raise ParseError("Bad URI")
    except ParseError:
        try:
            uri = parse_uri(f"sip:{row.uri}")
        except ParseError:
            raise BadDestination(f"{row.uri!r} is no SIP URI") from None
    if not uri.host or len(uri.host) > _MAX_HOST:
        raise BadDestination(f"{row.uri!r} has no host")
    attrs = Attributes(row.attrs or no_attrs)
    listener = default
    if attrs.sockname:
        raise BadDestination(f"there is no listener named {attrs.sockname!r}")
    if attrs.socket:
        listener = find_listener(attrs.socket, listeners)
        if listener is None:
            raise BadDestination(f"{attrs.socket!r} is no listener")
    return Destination(row, uri, attrs, listener)


def parse_list(text: str) -> Iterator[Row]:
    """Give the rows of a list file: ``setid uri [flags [priority [attrs]]]``, ``#`` begins a comment. Raise BadDestination."""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip(_SPACES)
        if not line or line[0] == "#":
            continue
        digits, rest = _leading_number(line)
        if not rest or rest[0] == "#":
            raise BadDestination(f"line {number}: expected setid and URI")
        uri, rest = _token(rest, stop="#")
        flags, rest = _leading_number(rest)
        priority, rest = _leading_number(rest)
        attrs = "" if rest[:1] == "#" else _token(rest)[0]
        yield Row(digits, uri, flags, priority, attrs)


def _leading_number(text: str) -> tuple[int, str]:
    """Return the number that ``text`` begins with (0 when there is none), and what follows behind white space."""
    end = 0
    while end < len(text) and "0" <= text[end] <= "9":
        end += 1
    return int(text[:end] or "0"), text[end:].lstrip(_SPACES)


def _token(text: str, stop: str = "") -> tuple[str, str]:
    end = next((i for i, c in enumerate(text) if c in _SPACES or c in stop), len(text))
    return text[:end], text[end:].lstrip(_SPACES)


def hash_of(*texts: str) -> int:
    """Return Kamailio's hash of texts: 32 bits, never 0. Its octets are signed, as ``char`` is on x86."""
    total = 0
    for text in texts:
        octets = [c - 256 if c > 127 else c for c in text.encode("latin-1")]
        whole = len(octets) - len(octets) % 4
        for i in range(0, whole, 4):
            a, b, c, d = octets[i : i + 4]
            word = ((a << 24) + (b << 16) + (c << 8) + d) & _MASK
            total += word ^ (word >> 3)
        word = 0
        for octet in octets[whole:]:
            word = ((word << 8) + octet) & _MASK
        total += word ^ (word >> 3)
    total &= _MASK
    total = (total + (total >> 11) + (total >> 13) + (total >> 23)) & _MASK
    return total or 1


class _Node:
    """A node of the balanced tree in which Kamailio keeps sets."""

    __slots__ = ("height", "key", "sides")

    def __init__(self, key: int) -> None:
        self.key = key
        self.sides: list[_Node | None] = [None, None]
        self.height = 1


def walk(keys: Iterable[int]) -> list[int]:
    """Return the different ``keys`` in the order in which Kamailio goes through sets that were entered in this order.

    It searches all sets, and lists them, by both branches of a node of its AVL tree before the node itself.
    """
    root: _Node | None = None
    for key in dict.fromkeys(keys):
        root = _insert(root, key)
    return _after_branches(root)


def _after_branches(node: _Node | None) -> list[int]:
    return [] if node is None else [*_after_branches(node.sides[0]), *_after_branches(node.sides[1]), node.key]


def _height(node: _Node | None) -> int:
    return node.height if node is not None else 0


def _insert(node: _Node | None, key: int) -> _Node:
    if node is None:
        return _Node(key)
    side = int(key > node.key)
    child = node.sides[side] = _insert(node.sides[side], key)
    if _height(child) - _height(node.sides[1 - side]) > 1:
        if _height(child.sides[1 - side]) > _height(child.sides[side]):
            node.sides[side] = _rotate(child, 1 - side)
        return _rotate(node, side)
    return _measured(node)


def _rotate(node: _Node, side: int) -> _Node:
    """Put the child on ``side`` in the place of its parent."""
    child = node.sides[side]
    assert child is not None
    node.sides[side] = child.sides[1 - side]
    child.sides[1 - side] = _measured(node)
    return _measured(child)


def _measured(node: _Node) -> _Node:
    node.height = 1 + max(map(_height, node.sides))
    return node
