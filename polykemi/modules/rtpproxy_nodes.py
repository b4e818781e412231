"""rtpproxy: the relays: their sets, which one a call takes, and how they are asked (the control protocol of RTPproxy).

A relay that does not answer is disabled for ``rtpproxy_disable_tout`` seconds; then the next call that could take it asks
it for its version first.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from polykemi.kemi.network import Peers

log = logging.getLogger("polykemi.rtpproxy")

_VERSION: Final = "20040107"
_REQUIRED: Final = "20050322"
_REPACKETIZE: Final = "20071116"
_PAYLOADS: Final = "20081102"


@dataclass(eq=False, slots=True)
class Proxy:
    """One relay, and what it can do."""

    index: int
    url: str
    weight: int
    disabled: bool = False
    permanent: bool = False  # by an operator or the table
    recheck: float = 0.0  # seconds since the epoch: not asked before when disabled
    repacketizes: bool = False
    takes_payloads: bool = False  # payload lists, and streams that it plays

    @property
    def address(self) -> str:
        """What ``Peers.ask`` takes."""
        scheme, _, rest = self.url.partition(":")
        return f"{scheme.lower()}:{rest}"


class Proxies:
    """All sets by number, and the control protocol."""

    def __init__(self, peers: Peers, retries: int, seconds: float, disable_seconds: int, cookie: str) -> None:
        self.sets: dict[int, list[Proxy]] = {}
        self._peers = peers
        self._retries, self._seconds, self._disable_seconds = retries, seconds, disable_seconds
        self._cookie = cookie
        self._asked = 0

    def add(self, setid: int, url: str, weight: int, *, disabled: bool = False) -> None:
        """Add a relay to a set, which is made when it is new."""
        index = sum(map(len, self.sets.values()))
        self.sets.setdefault(setid, []).append(Proxy(index, url, weight, disabled, disabled))

    def ask(self, proxy: Proxy, command: str, now: float) -> str | None:
        """Return the answer of a relay, None, and it is disabled, when there is none."""
        self._asked += 1
        local = proxy.address.startswith("unix:")  # a connection a question: no cookie
        cookie = b"" if local else f"{self._cookie}_{self._asked} ".encode("latin-1")
        mark = cookie.rstrip(b" ")
        try:
            for _ in range(1 if local else max(self._retries, 1)):
                data = cookie + command.encode("latin-1")
                answer = self._peers.ask(proxy.address, data, self._seconds, lambda a: a.startswith(mark))
                if answer is not None:
                    return answer[len(cookie) :].decode("latin-1")
            log.error("%s: no answer", proxy.url)
        except OSError as error:
            log.error("%s: %s", proxy.url, error)
        proxy.disabled, proxy.recheck = True, now + self._disable_seconds
        return None

    def probe(self, proxy: Proxy, now: float) -> None:
        """Ask a relay what it can do, and enable or disable it; one that is disabled for ever is left alone."""
        if proxy.permanent:
            return
        version = self.ask(proxy, "V", now)
        if version is not None and version.split()[:1] == [_VERSION] and self._can(proxy, _REQUIRED, now):
            proxy.disabled = False
            proxy.repacketizes = self._can(proxy, _REPACKETIZE, now)
            proxy.takes_payloads = self._can(proxy, _PAYLOADS, now)
            log.info("%s: enabled", proxy.url)
        else:
            proxy.disabled, proxy.recheck = True, now + self._disable_seconds
            log.warning("%s: disabled", proxy.url)

    def _can(self, proxy: Proxy, capability: str, now: float) -> bool:
        answer = self.ask(proxy, f"VF {capability}", now)
        return answer is not None and answer.strip() == "1"

    def choose(self, setid: int, call_id: str, now: float) -> Proxy | None:
        """Return the relay of a call: by its Call-ID and the weights, of those that live; None when there is none."""
        proxies = self.sets.get(setid, [])
        for proxy in proxies:
            if proxy.disabled and proxy.recheck <= now:
                self.probe(proxy, now)
        if len(proxies) > 1 and not any(p.weight for p in proxies if not p.disabled):
            for proxy in proxies:
                self.probe(proxy, now)
        alive = [p for p in proxies if not p.disabled]
        if len(proxies) == 1:
            return alive[0] if alive else None
        total = sum(p.weight for p in alive)
        cut = (sum(call_id.encode("latin-1")) & 0xFF) % total if total else 0
        for proxy in alive:
            if cut < proxy.weight:
                return proxy
            cut -= proxy.weight
        return None
