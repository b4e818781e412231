"""mqueue: queues of keys and values, between route blocks and to whoever fetches them (Kamailio: modules/mqueue)."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from polykemi.errors import LimitReached, RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.limits import ScriptLimits, check_value
from polykemi.kemi.registry import Xval, export
from polykemi.kemi.rpc import rpc
from polykemi.modules.base import Module, Services
from polykemi.pv.accessor import Factory
from polykemi.pv.classes.factories import named
from polykemi.sip.header import parse_params

log = logging.getLogger("polykemi.script")

SIZE: Final = 100_000  # items, where a queue is given no size
_MODES: Final = ("0", "1", "2")
_FAILED: Final = 500
_NOT_FOUND: Final = 404


@dataclass(slots=True)
class Queue:
    """One queue. ``size``: how many items it keeps, the newest (0: SIZE); ``addmode``: 1 the oldest of a key, 2 the newest."""

    name: str
    size: int = 0
    addmode: int = 0
    items: deque[tuple[str, str]] = field(default_factory=deque)
    fetched: tuple[str, str] | None = None
    octets: int = 0  # of keys and values

    def add(self, key: str, value: str, limits: ScriptLimits) -> None:
        """Put an item behind the others. Raise LimitReached when it is too long, or the others leave it no room."""
        check_value(key, limits)
        check_value(value, limits)
        octets = self.octets + len(key) + len(value)
        if octets > limits.mqueue_total:
            raise LimitReached(f"{octets} octets in the queue {self.name}", "mqueue_total", limits.mqueue_total)
        if self.addmode:
            at = next((i for i, item in enumerate(self.items) if item[0] == key), -1)
            if at >= 0 and self.addmode == 1:
                return
            if at >= 0:
                self.octets -= sum(map(len, self.items[at]))
                del self.items[at]
        self.octets += len(key) + len(value)
        self.items.append((key, value))
        if len(self.items) > (self.size or SIZE):
            self.take()

    def take(self) -> tuple[str, str] | None:
        """Take the first item out and return it, None when there is none."""
        if not self.items:
            return None
        item = self.items.popleft()
        self.octets -= sum(map(len, item))
        return item

    def fetch(self) -> bool:
        """Take the first item out; tell whether there was one."""
        self.fetched = self.take()
        return self.fetched is not None


def parse_definition(text: str) -> Queue:
    """Read ``name=NAME;size=N;addmode=N``. Raise ValueError."""
    params = parse_params(text)
    name = params.pop("name", None)
    size, mode, dbmode = (params.pop(key, None) or "0" for key in ("size", "addmode", "dbmode"))
    if not name or params or not size.isdecimal() or mode not in _MODES:
        raise ValueError(f"mqueue: expected name=NAME;size=N;addmode=0|1|2, got {text!r}")
    if dbmode != "0":
        raise ValueError(f"mqueue: queues are not kept in a database, dbmode has to be 0: {text!r}")
    return Queue(name, int(size), int(mode))


@dataclass(frozen=True, slots=True)
class MqueueParams:
    """Kamailio's names and defaults; ``mqueue_size`` and ``mqueue_addmode`` are those of the queues in ``mqueue_name``."""

    mqueue: tuple[str, ...] = ()
    mqueue_name: tuple[str, ...] = ()
    mqueue_size: int = 0
    mqueue_addmode: int = 0

    def __post_init__(self) -> None:
        if str(self.mqueue_addmode) not in _MODES or self.mqueue_size < 0:
            raise ValueError("mqueue_addmode: expected 0, 1 or 2; mqueue_size: expected 0 or more")
        names = [queue.name for queue in self.queues()]
        if len(names) != len(set(names)) or not all(names):
            raise ValueError(f"mqueue: a name is empty or stands twice: {', '.join(names)}")

    def queues(self) -> list[Queue]:
        """Return the queues, empty."""
        plain = [Queue(name, self.mqueue_size, self.mqueue_addmode) for name in self.mqueue_name]
        return [parse_definition(text) for text in self.mqueue] + plain


class Mqueue(Module):
    """The queues of one server, in memory."""

    name = "mqueue"
    Params = MqueueParams

    def __init__(self, services: Services, params: Any = None) -> None:
        super().__init__(services, params)
        self.queues: dict[str, Queue] = {queue.name: queue for queue in self.params.queues()}

    def pv_classes(self) -> Mapping[str, Factory]:
        """Return $mqk and $mqv, key and value of the item that was fetched, and $mq_size."""
        return {
            "mqk": named(lambda ctx, name: self._fetched(name, 0) or None),
            "mqv": named(lambda ctx, name: self._fetched(name, 1) or None),
            "mq_size": named(lambda ctx, name: self._of(name, lambda queue: len(queue.items))),
        }

    def _of(self, name: str, get: Callable[[Queue], Any]) -> Any:
        queue = self.queues.get(name)
        if queue is None:
            log.error("mqueue: there is no queue %r; queues are defined in mqueue's parameter mqueue", name)
            return None
        return get(queue)

    def _fetched(self, name: str, part: int) -> str | None:
        found: str | None = self._of(name, lambda queue: queue.fetched[part] if queue.fetched else None)
        return found

    @export()
    def mq_add(self, ctx: RouteContext, mq: str, key: str, val: str) -> int:
        """Add an item to the queue. Answers 1, or -1 when there is no such queue."""
        queue: Queue | None = self._of(mq, lambda queue: queue)
        if queue is None:
            return -1
        queue.add(key, val, self.services.limits)
        return 1

    @export()
    def mq_fetch(self, ctx: RouteContext, mq: str) -> int:
        """Take the oldest item out of the queue, for $mqk and $mqv. Answers 1, -2 when it is empty, -1 when there is none."""
        queue = self.queues.get(mq)
        if queue is None:
            return -1
        return 1 if queue.fetch() else -2

    @export()
    def mq_size(self, ctx: RouteContext, mq: str) -> int:
        """Return how many items wait, -1 when there is no such queue."""
        size: int | None = self._of(mq, lambda queue: len(queue.items))
        return -1 if size is None else size

    @export()
    def mq_pv_free(self, ctx: RouteContext, mq: str) -> int:
        """Forget the item that was fetched. Answers 1."""
        if mq in self.queues:
            self.queues[mq].fetched = None
        return 1

    @export()
    def mqk_get(self, ctx: RouteContext, mq: str) -> Xval:
        """Return the key of the item that was fetched, null without one."""
        return self._item(mq, 0)

    @export()
    def mqk_gete(self, ctx: RouteContext, mq: str) -> Xval:
        """Return the key of the item that was fetched; without one null, as Kamailio."""
        return self._item(mq, 0)

    @export()
    def mqk_getw(self, ctx: RouteContext, mq: str) -> Xval:
        """Return the key of the item that was fetched; without one null, as Kamailio."""
        return self._item(mq, 0)

    @export()
    def mqv_get(self, ctx: RouteContext, mq: str) -> Xval:
        """Return the value of the item that was fetched, null without one."""
        return self._item(mq, 1)

    @export()
    def mqv_gete(self, ctx: RouteContext, mq: str) -> Xval:
        """Return the value of the item that was fetched; without one null, as Kamailio."""
        return self._item(mq, 1)

    @export()
    def mqv_getw(self, ctx: RouteContext, mq: str) -> Xval:
        """Return the value of the item that was fetched; without one null, as Kamailio."""
        return self._item(mq, 1)

    def _item(self, name: str, part: int) -> Xval:
        queue = self.queues.get(name)
        return queue.fetched[part] if queue is not None and queue.fetched else None

    # ---- commands
    def _asked(self, name: str, code: int = _NOT_FOUND) -> Queue:
        queue = self.queues.get(name)
        if queue is None:
            raise RpcError(code, "No such queue")
        return queue

    @rpc("mqueue.get_size", (400, "No queue name"))
    def get_size(self, name: str) -> dict[str, Any]:
        """Return how many items wait in a queue."""
        return {"name": name, "size": len(self._asked(name).items)}

    @rpc("mqueue.get_sizes")
    def get_sizes(self) -> list[dict[str, Any]]:
        """Return how many items wait in each queue."""
        return [{"name": queue.name, "size": len(queue.items)} for queue in self.queues.values()]

    @rpc("mqueue.fetch", (500, "No queue name"))
    def fetch(self, name: str) -> dict[str, str]:
        """Take the oldest item out of a queue."""
        item = self._asked(name, 500).take()
        if item is None:
            raise RpcError(_NOT_FOUND, "Empty queue")
        key, value = item
        return {"key": key, "val": value}
