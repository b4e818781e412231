"""rtpengine: the relays: their sets, which one a call takes, and how they are asked (ng protocol over UDP or unix sockets).

A relay that does not answer is disabled for ``rtpengine_disable_tout`` seconds; then the next call that could take it
pings it first. One that an operator has disabled stays so until he enables it.
"""

from __future__ import annotations

import hashlib
import logging
import re
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from polykemi.kemi.network import Peers
from polykemi.modules.rtpengine_bencode import Bencoded, decode, encode
from polykemi.sip.grammar import to_port

log = logging.getLogger("polykemi.rtpengine")

_URL: Final = re.compile(r"(udp|udp6|unix):(.+)", re.IGNORECASE | re.DOTALL)
_SHA1, _CRC32 = 1, 2  # hash_algo; 0 adds octets
_MOST_CALLS: Final = 1_000_000  # remembered: beyond that the oldest goes


@dataclass(eq=False, slots=True)
class Node:
    """One relay."""

    index: int
    url: str  # as it was given, with its scheme
    weight: int
    disabled: bool = False
    permanent: bool = False  # by an operator, until he enables it
    recheck: float = 0.0  # seconds since the epoch: not asked before when disabled
    hidden: bool = False  # no longer in the table: only calls that are on their way may ask it

    @property
    def address(self) -> str:
        """What ``Peers.ask`` takes."""
        scheme, _, rest = self.url.partition(":")
        scheme = scheme.lower()
        return f"{scheme}:{rest}" if scheme == "unix" or re.search(r":\d+$", rest) else f"{scheme}:{rest}:22222"


@dataclass(eq=False, slots=True)
class NodeSet:
    """Relays among which calls are spread."""

    id: int
    nodes: list[Node] = field(default_factory=list)


def parse_set(definition: str, default: int, name: str = "rtpengine_sock") -> tuple[int, list[tuple[str, int]]]:
    """Return the number and the relays (URL, weight) of ``1 == udp:10.0.0.1:22222=2 udp:...``. Raise ValueError."""
    head, equals, rest = definition.partition("==")
    number, urls = (head.strip(), rest.split()) if equals else (str(default), definition.split())
    if not number.isdecimal() or not urls:
        raise ValueError(f"{name}: expected [NUMBER ==] udp:host:port[=weight] ..., got {definition!r}")
    nodes = []
    for one in urls:
        url, _, weight = one.partition("=")
        nodes.append((checked_url(url), int(weight) if weight.isdecimal() else 0 if "=" in one else 1))
    return int(number), nodes


def checked_url(url: str) -> str:
    """Return ``url``. Raise ValueError when no relay can be there."""
    match = _URL.fullmatch(url)
    if match is not None and match[1].lower() != "unix":
        host, colon, port = match[2].rpartition(":")
        named = not colon or match[2].endswith("]")
        if not named and not (host and to_port(port) >= 0):
            match = None
    if match is None:
        raise ValueError(f"expected udp:host:port, udp6:[address]:port or unix:path, got {url!r}")
    return url


@dataclass(frozen=True, slots=True)
class Patience:
    """How long relays are waited for, and how they are chosen: parameters of the module."""

    retries: int
    seconds: float  # for one try
    disable_seconds: int
    nodes_limit: int
    redetect: bool
    hash_algo: int
    allow_op: int


class Nodes:
    """All sets, and the ng protocol."""

    def __init__(self, peers: Peers, patience: Patience, cookie: str) -> None:
        self.sets: dict[int, NodeSet] = {}
        self._peers = peers
        self.patience = patience
        self._cookie = cookie
        self._asked = 0

    def __iter__(self) -> Iterator[tuple[NodeSet, Node]]:
        return iter([(one, node) for one in self.sets.values() for node in one.nodes if not node.hidden])

    def add(self, setid: int, url: str, weight: int, *, disabled: bool = False) -> None:
        """Add a relay to a set, which is made when it is new; one that is there already takes the new weight."""
        one = self.sets.setdefault(setid, NodeSet(setid))
        node = next((n for n in one.nodes if n.url == url), None)
        if node is None:
            node = Node(sum(len(s.nodes) for s in self.sets.values()), url, weight)
            one.nodes.append(node)
        node.hidden = False
        node.weight, node.disabled, node.permanent, node.recheck = weight, disabled, disabled, 0.0

    def hide(self) -> None:
        """Take all relays out of use, but for the calls that are on them: before the table is read anew."""
        for _, node in self:
            node.hidden = node.disabled = node.permanent = True

    # ---- questions
    def ask(self, node: Node, question: dict[str, Bencoded]) -> dict[str, Bencoded] | None:
        """Return the answer of a relay, {} when it makes no sense, None when there is none within the time."""
        self._asked += 1
        cookie = f"{self._cookie}_{self._asked} ".encode("latin-1")
        local = node.address.startswith("unix:")  # a connection a question: no cookie tells answers apart
        data = encode(question) if local else cookie + encode(question)
        accept = (lambda answer: True) if local else (lambda answer: answer.startswith(cookie))
        command = question["command"]
        try:
            for _ in range(1 if local else max(self.patience.retries, 1)):
                answer = self._peers.ask(node.address, data, self.patience.seconds, accept)
                if answer is not None:
                    return _dictionary(answer if local else answer[len(cookie) :], node)
            log.error("%s: no answer to %s", node.url, command)
        except OSError as error:
            log.error("%s: %s: %s", node.url, command, error)
        return None

    def ping(self, node: Node) -> bool:
        """Tell whether a relay answers a ping."""
        answer = self.ask(node, {"command": "ping"})
        return answer is not None and answer.get("result") == "pong"

    def disable(self, node: Node, now: float) -> None:
        """Leave a relay alone for a while, unless an operator has spoken."""
        if not node.permanent:
            node.disabled, node.recheck = True, now + self.patience.disable_seconds

    def probe(self, node: Node, now: float) -> None:
        """Ping a relay that is not disabled for ever, and enable or disable it."""
        if node.permanent:
            return
        if self.ping(node):
            node.disabled = False
            log.info("%s: enabled", node.url)
        else:
            self.disable(node, now)

    # ---- choice
    def choose(self, among: NodeSet, call_id: str, queried: list[Node], now: float) -> Node | None:
        """Return the relay that a new call takes: by its Call-ID and the weights, of those that live and were not asked."""
        shown = [n for n in among.nodes if not n.hidden]
        for node in shown:
            if node.disabled and node.recheck <= now:
                self.probe(node, now)
        alive = _alive(shown, queried)
        if not sum(n.weight for n in alive) and self.patience.redetect:
            for node in shown:
                self.probe(node, now)
            alive = _alive(shown, queried)
        total = sum(n.weight for n in alive)
        if not total:
            return None
        cut = _hash(call_id, self.patience.hash_algo) % total
        for node in alive:
            if cut < node.weight:
                return node
            cut -= node.weight
        return None

    def usable(self, node: Node) -> bool:
        """Tell whether the relay of a call that is on its way may be asked (rtpengine_allow_op)."""
        return not node.disabled or self.patience.allow_op == 1 or (self.patience.allow_op != 0 and node.permanent)


def _alive(nodes: list[Node], queried: list[Node]) -> list[Node]:
    return [n for n in nodes if not n.disabled and n not in queried]


def _dictionary(data: bytes, node: Node) -> dict[str, Bencoded]:
    try:
        answer = decode(data)
    except ValueError as error:
        log.error("%s: the answer is no bencode: %s", node.url, error)
        return {}
    return answer if isinstance(answer, dict) else {}


def _hash(call_id: str, algorithm: int) -> int:
    octets = call_id.encode("latin-1")
    if algorithm == _CRC32:
        return zlib.crc32(octets)
    if algorithm == _SHA1:  # its octets are added as C's signed characters
        return sum(b - 256 if b > 127 else b for b in hashlib.sha1(octets).digest()) & 0xFFFFFFFF
    return sum(octets) & 0xFF


class Calls:
    """Which relay a call is on: by Call-ID and via-branch, for ``seconds`` since it was first asked."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._nodes: dict[str, dict[str, tuple[Node, float]]] = {}
        self._expiries: deque[tuple[float, str, str]] = deque()

    def __len__(self) -> int:
        return sum(len(branches) for branches in self._nodes.values())

    def find(self, call_id: str, branch: str, *, any_branch: bool, now: float) -> Node | None:
        """Return the relay; ``any_branch``: without a branch the first of the call will do."""
        self._expire(now)
        branches = self._nodes.get(call_id)
        if not branches:
            return None
        found = branches.get(branch)
        if found is None and any_branch and not branch:
            found = next(iter(branches.values()))
        return found[0] if found is not None else None

    def remember(self, call_id: str, branch: str, node: Node, now: float) -> None:
        """Note that the call is on this relay."""
        until = now + self._seconds
        self._nodes.setdefault(call_id, {})[branch] = node, until
        self._expiries.append((until, call_id, branch))

    def forget(self, call_id: str, branch: str) -> None:
        """Forget a branch, without one the whole call."""
        if branch:
            self._take(call_id, branch)
        else:
            self._nodes.pop(call_id, None)

    def _expire(self, now: float) -> None:
        due = self._expiries
        while due and (due[0][0] <= now or len(due) > _MOST_CALLS):
            until, call_id, branch = due.popleft()
            if self._nodes.get(call_id, {}).get(branch, (None, -1.0))[1] == until:
                self._take(call_id, branch)

    def _take(self, call_id: str, branch: str) -> None:
        branches = self._nodes.get(call_id, {})
        branches.pop(branch, None)
        if not branches:
            self._nodes.pop(call_id, None)
