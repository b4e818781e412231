"""The time, as of the message: ``$Ts $TS $Tf $TF $Tb $TV(x) $time(x) $timef(format) $utime(x) $utimef(format)``.

The time of a route block is an argument (``ctx.now``), so what Kamailio caches and what it reads afresh are the same here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import Xval
from polykemi.pv.accessor import Accessor, Factory, Getter
from polykemi.pv.classes.factories import keyed, no_index, of_environment, plain, required

if TYPE_CHECKING:
    from polykemi.pv.compiler import Variables

_CTIME: Final = "%a %b %e %H:%M:%S %Y"

Clock = Callable[[float], datetime]


def local(seconds: float) -> datetime:
    """Return the local time of ``seconds`` since the epoch."""
    return datetime.fromtimestamp(seconds).astimezone()


def utc(seconds: float) -> datetime:
    """Return the UTC of ``seconds`` since the epoch."""
    return datetime.fromtimestamp(seconds, UTC)


def format_time(moment: datetime, pattern: str) -> str | None:
    """Format by strftime; None when the pattern cannot be used."""
    try:
        return moment.strftime(pattern) or None
    except ValueError:  # a NUL, or octets that are no text in this locale
        return None


def _is_dst(moment: datetime) -> int:
    """Return 1 in daylight saving time: the clock is ahead of where it is in the other half of the year."""
    offsets = [datetime(moment.year, month, 1).astimezone().utcoffset() for month in (1, 7)]
    now = moment.utcoffset()
    return int(any(now is not None and offset is not None and now > offset for offset in offsets))


_FIELDS: Final[dict[str, Callable[[datetime], int]]] = {
    "sec": lambda t: t.second,
    "min": lambda t: t.minute,
    "hour": lambda t: t.hour,
    "mday": lambda t: t.day,
    "mon": lambda t: t.month,
    "year": lambda t: t.year,
    "wday": lambda t: t.isoweekday() % 7 + 1,
    "yday": lambda t: t.timetuple().tm_yday,
}


def _fields(clock: Clock, is_dst: Callable[[datetime], int]) -> Factory:
    def of(field: Callable[[datetime], int]) -> Getter:
        return lambda ctx: field(clock(ctx.now))

    return keyed({name: of(field) for name, field in {**_FIELDS, "isdst": is_dst}.items()})


def _formatted(clock: Clock) -> Factory:
    def factory(inner: str | None, index: str | None, variables: Variables) -> Accessor:
        no_index(index)
        pattern = variables.name(required(inner))
        if isinstance(pattern, str):
            constant = pattern
            return Accessor(lambda ctx: format_time(clock(ctx.now), constant))
        pattern_of = pattern

        def get(ctx: RouteContext) -> Xval:
            current = pattern_of(ctx)
            return format_time(clock(ctx.now), current) if isinstance(current, str) else None

        return Accessor(get)

    return factory


def _seconds(ctx: RouteContext) -> int:
    return int(ctx.now)


def _microseconds(ctx: RouteContext) -> int:
    return int(ctx.now * 1_000_000) % 1_000_000


def _with_fraction(ctx: RouteContext) -> Xval:
    return f"{_seconds(ctx)}.{_microseconds(ctx):06d}"


def _date_with_fraction(ctx: RouteContext) -> Xval:
    return f"{local(ctx.now):%Y-%m-%d %H:%M:%S}.{_microseconds(ctx):06d}"


def _started(variables: Variables) -> Accessor:
    started = int(variables.environment.started)
    return Accessor(lambda ctx: started)


_TEXT = plain(lambda ctx: format_time(local(ctx.now), _CTIME))
_SECONDS = plain(_seconds)

CLASSES: Final[dict[str, Factory]] = {
    "Tb": of_environment(_started),
    "Ts": _SECONDS,
    "TS": _SECONDS,
    "Tf": _TEXT,
    "TF": _TEXT,
    "TV": keyed(
        {
            "s": _seconds,
            "sn": _seconds,
            "u": _microseconds,
            "un": _microseconds,
            "Sn": _with_fraction,
            "Sm": _with_fraction,
            "Fn": _date_with_fraction,
        }
    ),
    "time": _fields(local, _is_dst),
    "utime": _fields(utc, lambda moment: 0),
    "timef": _formatted(local),
    "utimef": _formatted(utc),
}
