"""Where names lead to (RFC 3263): keeps the records of DNS for as long as they say, asks for what is missing, never waits.

``sip/locate`` chooses, ``name_servers`` asks, ``hosts`` knows /etc/hosts. One question is asked once at a time, whoever wants
to know; failures are kept too, so that a name that does not exist is not asked for with every request.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random as randomness
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final, NamedTuple

from polykemi.live import live
from polykemi.sip.locate import Candidate, Destination, Draw, Place, Question, Usable, in_order, locate
from polykemi.transport.hosts import Hosts

log = logging.getLogger("polykemi.dns")

MOST: Final = 10_000  # answers, and ways found by them: names come from the network
_MOST_AT_ONCE: Final = 1_000  # questions on their way
_MOST_STEPS: Final = 8  # rounds of questions for one destination: NAPTR, SRV, addresses
_KEEP_HOSTS: Final = 10.0  # seconds that what /etc/hosts says is used without looking again
_MINUTE: Final = 60.0
PERMANENT: Final = math.inf  # what an operator has entered so


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """How names are found; the names are those of Kamailio's core parameters without ``dns_``. Times are seconds."""

    nameservers: tuple[tuple[str, int], ...] = ()  # address and port; none: those of /etc/resolv.conf
    try_naptr: bool = live(default=True, doc="look for NAPTR records where RFC 3263 says so", name="dns_try_naptr")
    try_ipv6: bool = live(
        default=True, doc="use IPv6 addresses where there is a listener for them", name="dns_try_ipv6"
    )
    srv_lb: bool = live(
        default=True,
        doc="share by the weights of SRV records; off: the highest weight comes first, always",
        name="dns_srv_lb",
    )
    retr_time: float = live(1.0, "wait so long for an answer of one name server", name="dns_retr_time")
    retr_no: int = live(3, "ask all of them so often", name="dns_retr_no")
    servers_no: int = live(3, "ask so many of them", name="dns_servers_no")
    cache_min_ttl: float = live(0.0, "keep answers at least so long, whatever they say", name="dns_cache_min_ttl")
    cache_max_ttl: float = live(86400.0, "and at most so long", name="dns_cache_max_ttl")
    cache_negative_ttl: float = live(
        60.0, 'keep "there is none" so long at most; 0: not at all', name="dns_cache_negative_ttl"
    )
    use_failover: bool = live(default=True, doc="try the next place when one does not answer", name="use_dns_failover")
    use_dst_blocklist: bool = live(default=False, doc="pass over what has not answered")
    dst_blocklist_expire: float = live(60.0, "for so long")

    def __post_init__(self) -> None:
        for key in ("retr_time", "retr_no", "servers_no", "dst_blocklist_expire"):
            if not getattr(self, key) > 0:
                raise ValueError(f"{key}: expected more than 0, got {getattr(self, key):g}")
        for key in ("cache_min_ttl", "cache_max_ttl", "cache_negative_ttl"):
            if not getattr(self, key) >= 0:
                raise ValueError(f"{key}: expected seconds, got {getattr(self, key):g}")
        if self.cache_min_ttl > self.cache_max_ttl:
            raise ValueError(f"cache_min_ttl: expected at most cache_max_ttl, {self.cache_max_ttl:g}")


class Reply(NamedTuple):
    """What a name server has answered: records (none when there are none) and for how long that holds."""

    records: tuple[Any, ...]  # Naptr, Srv, or addresses
    ttl: float


class Answer(NamedTuple):
    """Records that are kept."""

    records: tuple[Any, ...]
    until: float  # seconds since the epoch; PERMANENT: for ever


class _Way(NamedTuple):
    """What was found out about a destination."""

    candidates: list[Candidate]
    until: float


# asks the name servers: name, kind -> Reply; None when none of them gave a usable answer
Ask = Callable[[str, str], Awaitable[Reply | None]]


class Resolver:
    """A cache of DNS, and of where destinations lead to by it (``kemi.network.Locator``)."""

    def __init__(
        self,
        ask: Ask,
        settings: DnsSettings | None = None,
        *,
        hosts: Hosts | None = None,
        done: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        random: Draw | None = None,
    ) -> None:
        """``done`` is called when answers have been given out; ``random(n)`` gives a number from 0 to n."""
        self.settings = settings or DnsSettings()
        self.loop: asyncio.AbstractEventLoop | None = None  # set before the first question
        self.counters = {"dns.requests": 0, "dns.failed_dns_request": 0}
        self._ask_servers = ask
        self._hosts = hosts or Hosts()
        self._done = done
        self._clock = clock
        draw = randomness.SystemRandom()
        self._random = random or (lambda n: draw.randint(0, n))
        self._answers: dict[Question, Answer] = {}
        self._ways: dict[tuple[Any, ...], _Way] = {}  # by destination and what is usable
        self._waiting: dict[Question, list[Callable[[], None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- kemi.network.Locator
    def locate(
        self, destination: Destination, usable: Usable, now: float, draw: Draw | None = None
    ) -> list[Place] | None:
        """Return the places in the order to be tried, [] when there are none, None when DNS has to be asked."""
        way = self._ways.get((destination, *usable.items()))
        if way is None or way.until <= now:
            found = self._look(destination, usable, now, {})
            if isinstance(found, list):
                return None
            way = found
        return in_order(way.candidates, (draw or self._random) if self.settings.srv_lb else None)

    def ask(self, destination: Destination, usable: Usable, answer: Callable[[list[Place], float], None]) -> None:
        """Ask DNS; ``answer`` gets the places and the time then: never before this returns."""
        assert self.loop is not None
        self.loop.call_soon(self._step, destination, usable, answer, {}, _MOST_STEPS)

    def _step(
        self,
        destination: Destination,
        usable: Usable,
        answer: Callable[[list[Place], float], None],
        seen: dict[Question, Answer],
        left: int,
    ) -> None:
        """Look once more with what is known by now; ``seen`` are the answers to this one's questions, expired or not."""
        now = self._clock()
        found = self._look(destination, usable, now, seen)
        if not isinstance(found, list):
            answer(in_order(found.candidates, self._random if self.settings.srv_lb else None), now)
            self._done()
            return
        if not left:  # an answer that is not kept, again and again
            answer([], now)
            self._done()
            return
        waits = _Countdown(len(found), partial(self._step, destination, usable, answer, seen, left - 1))
        for question in found:
            self._want(question, partial(self._take, question, seen, waits))

    def _take(self, question: Question, seen: dict[Question, Answer], waits: _Countdown) -> None:
        known = self._answers.get(question)
        seen[question] = known if known is not None else Answer((), 0.0)
        waits.down()

    def _look(
        self, destination: Destination, usable: Usable, now: float, seen: dict[Question, Answer]
    ) -> _Way | list[Question]:
        """Return what the records say, or the questions that have to be answered first."""
        untils = [now + self.settings.cache_max_ttl]

        def records(name: str, kind: str) -> Sequence[Any] | None:
            question = name.lower().rstrip("."), kind
            answer = seen.get(question)
            if answer is None:
                answer = self._known(question, now)
            if answer is None:
                return None
            untils.append(answer.until)
            return answer.records

        candidates, missing = locate(destination, usable, records, naptr=self.settings.try_naptr)
        if missing:
            return [(name.lower().rstrip("."), kind) for name, kind in missing]
        way = _Way(candidates, min(untils))
        if way.until > now:
            if len(self._ways) >= MOST:
                self._ways.clear()
            self._ways[(destination, *usable.items())] = way
        return way

    # ---- records
    def _known(self, question: Question, now: float) -> Answer | None:
        """Return what is known about ``question``, None when it has to be asked."""
        name, kind = question
        if kind in ("A", "AAAA"):
            if not self.settings.try_ipv6 and kind == "AAAA":
                return Answer((), now + _KEEP_HOSTS)
            addresses = self._hosts.addresses(name, 4 if kind == "A" else 6, now)
            if addresses is not None:  # as the system's resolver: a name that stands there is not asked for
                return Answer(addresses, now + _KEEP_HOSTS)
            if name == "localhost" or name.endswith(".localhost"):
                return Answer(("127.0.0.1",) if kind == "A" else ("::1",), now + _MINUTE)  # RFC 6761 section 6.3
        if name == "invalid" or name.endswith(".invalid") or not _is_askable(name):
            return Answer((), now + _MINUTE)  # RFC 6761 section 6.4
        answer = self._answers.get(question)
        if answer is None or answer.until <= now:
            return None
        return answer

    def _want(self, question: Question, told: Callable[[], None]) -> None:
        """Ask for ``question`` unless that is on its way; ``told`` is called when the answer is there."""
        waiting = self._waiting.get(question)
        if waiting is not None:
            waiting.append(told)
            return
        assert self.loop is not None
        if len(self._waiting) >= _MOST_AT_ONCE:
            self.counters["dns.failed_dns_request"] += 1
            told()
            return
        self._waiting[question] = [told]
        task = self.loop.create_task(self._ask(question))
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, question: Question) -> None:
        self.counters["dns.requests"] += 1
        reply: Reply | None = None
        try:
            reply = await self._ask_servers(*question)
        finally:  # whatever happens there, nobody is left waiting
            self.put(question, reply, self._clock())
            for told in self._waiting.pop(question):
                told()

    def put(self, question: Question, reply: Reply | None, now: float) -> None:
        """Keep what was answered to ``question``, for as long as it says and the settings allow; None: no usable answer."""
        settings = self.settings
        if reply is None:
            self.counters["dns.failed_dns_request"] += 1
            log.info("no answer about %s %s", question[1], question[0])
            answer = Answer((), now + min(settings.cache_negative_ttl, 5.0))  # RFC 2308 section 7: not for long
        elif reply.records:
            ttl = min(max(reply.ttl, settings.cache_min_ttl), settings.cache_max_ttl)
            answer = Answer(reply.records, now + ttl)
        else:
            answer = Answer((), now + min(reply.ttl, settings.cache_negative_ttl))
        if len(self._answers) >= MOST and question not in self._answers:
            self._make_room(now)
        self._answers[question] = answer

    def _make_room(self, now: float) -> None:
        """Drop what has expired, else what was asked first."""
        answers = self._answers
        expired = [question for question, answer in answers.items() if answer.until <= now]
        passing = (question for question, answer in answers.items() if answer.until != PERMANENT)
        for question in expired or list(islice(passing, MOST // 8)):
            del answers[question]

    # ---- for the control plane
    def view(self, now: float) -> Iterator[tuple[Question, Answer]]:
        """Give what is known of DNS at ``now``."""
        return (item for item in list(self._answers.items()) if item[1].until > now)

    def known(self, name: str, kind: str, now: float) -> Answer | None:
        """Return what is known about ``name``; None: it is being asked for now."""
        question = name.lower().rstrip("."), kind
        answer = self._known(question, now)
        if answer is None and self.loop is not None:
            self._want(question, lambda: None)
        return answer

    def enter(self, name: str, kind: str, answer: Answer, now: float) -> None:
        """Keep ``answer`` about a name as if DNS had given it."""
        question = name.lower().rstrip("."), kind
        if len(self._answers) >= MOST and question not in self._answers:
            self._make_room(now)
        self._answers[question] = answer
        self._ways.clear()

    def forget(self, name: str, kind: str) -> Answer | None:
        """Forget what is known about a name, unless it is permanent; return it."""
        question = name.lower().rstrip("."), kind
        answer = self._answers.get(question)
        if answer is not None and answer.until != PERMANENT:
            del self._answers[question]
            self._ways.clear()
        return answer

    def clear(self, *, permanent: bool = False) -> None:
        """Forget all answers, or all but the permanent ones."""
        kept = {} if permanent else {q: answer for q, answer in self._answers.items() if answer.until == PERMANENT}
        self._answers.clear()
        self._answers.update(kept)
        self._ways.clear()

    def __len__(self) -> int:
        return len(self._answers)

    def close(self) -> None:
        """Ask no more."""
        for task in self._tasks:
            task.cancel()


class _Countdown:
    """Calls ``then`` when so many answers have come."""

    __slots__ = ("_left", "_then")

    def __init__(self, left: int, then: Callable[[], None]) -> None:
        self._left = left
        self._then = then

    def down(self) -> None:
        """Count one."""
        self._left -= 1
        if not self._left:
            self._then()


def _is_askable(name: str) -> bool:
    """Tell whether DNS can have ``name``: RFC 1035 section 2.3.4."""
    return 0 < len(name) <= 253 and all(0 < len(label) <= 63 for label in name.split("."))
