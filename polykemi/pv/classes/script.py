"""What a script keeps and what it may know of the server: ``$var() $shv() $mf $bf $sf $null $env() $stat() $version()`` ..."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from polykemi.kemi.context import RouteContext
from polykemi.kemi.numbers import is_number, leading_number
from polykemi.kemi.registry import Xval
from polykemi.pv.accessor import Accessor, Factory, Store
from polykemi.pv.classes.factories import keyed, no_index, of_environment, plain, required, with_name

if TYPE_CHECKING:
    from polykemi.pv.compiler import Variables


# ---- variables of the process
def _stored(store_of: Callable[[Variables], Store], initial: Xval, unset: Xval) -> Factory:
    """Return the class of variables that live as long as the server: absent ones read as ``initial``; ``unset`` is what
    setting null leaves."""

    def factory(inner: str | None, index: str | None, variables: Variables) -> Accessor:
        no_index(index)
        name, store = required(inner), store_of(variables)

        def put(ctx: RouteContext, value: Xval) -> bool:
            value = unset if value is None else value
            if value is None:
                store.unset(name)
            else:
                store[name] = value
            return True

        return Accessor(lambda ctx: store.get(name, initial), put)

    return factory


def _incremented(inner: str | None, index: str | None, variables: Variables) -> Accessor:
    """``$shvinc(name)``: adds one, then gives the value."""
    no_index(index)
    name, shared = required(inner), variables.environment.shared

    def get(ctx: RouteContext) -> Xval:
        value = shared.get(name, 0)
        shared[name] = value = value + 1 if isinstance(value, int) else 1
        return value

    return Accessor(get)


# ---- flags
def _flag_classes(
    letter: str, get: Callable[[RouteContext], int], write: Callable[[RouteContext, int], None]
) -> dict[str, Factory]:
    """Return a mask as number (``$mf``) and hex text (``$mF``) and its single flags (``$Mf(n)``)."""

    def put(ctx: RouteContext, value: Xval) -> bool:
        if isinstance(value, str):
            return False
        write(ctx, (value or 0) & 0xFFFFFFFF)
        return True

    def flag(inner: str | None, index: str | None, variables: Variables) -> Accessor:
        no_index(index)
        number = required(inner)
        if not is_number(number) or not 0 <= int(number) <= 31:
            raise ValueError("flags are numbers from 0 to 31")
        bit = 1 << int(number)

        def set_flag(ctx: RouteContext, value: Xval) -> bool:
            if isinstance(value, str):
                return False
            write(ctx, get(ctx) | bit if value else get(ctx) & ~bit)
            return True

        return Accessor(lambda ctx: int(bool(get(ctx) & bit)), set_flag)

    return {
        f"{letter}f": plain(lambda ctx: (get(ctx) ^ 0x80000000) - 0x80000000, put),  # as C's int
        f"{letter}F": plain(lambda ctx: f"{get(ctx):08x}", put),
        f"{letter.upper()}f": flag,
    }


def _put_message_flags(ctx: RouteContext, mask: int) -> None:
    ctx.shared.flags = mask


def _put_branch_flags(ctx: RouteContext, mask: int) -> None:
    ctx.bflags = mask


def _put_script_flags(ctx: RouteContext, mask: int) -> None:
    ctx.sflags = mask


# ---- the server
def to_int(text: str) -> int:
    """Return the number at the very start of ``text``, 0 when there is none; within 32 bits (Kamailio's conversion)."""
    return 0 if text[:1] in (" ", "\t") else leading_number(text)


def _of_mapping(mapping_of: Callable[[Variables], Mapping[str, str]], *, number: bool, absent: Xval = None) -> Factory:
    """Return the class of texts that the server was started with: ``$env(NAME)``; as number: ``$envn(NAME)``."""

    def factory(inner: str | None, index: str | None, variables: Variables) -> Accessor:
        no_index(index)
        texts = mapping_of(variables)

        def get(ctx: RouteContext, name: str) -> Xval:
            text = texts.get(name)
            return absent if text is None else to_int(text) if number else text

        return Accessor(with_name(variables.name(required(inner)), get))

    return factory


def _unquoted(inner: str | None, index: str | None, variables: Variables) -> Accessor:
    """``$defs(ID)``: a definition that is given in quotes, without them."""
    no_index(index)
    name, definitions = required(inner), variables.environment.definitions

    def get(ctx: RouteContext) -> Xval:
        text = definitions.get(name)
        return text[1:-1] if text and len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text

    return Accessor(get)


def _statistic(inner: str | None, index: str | None, variables: Variables) -> Accessor:
    """``$stat(name)``: a counter by its name, with or without its group."""
    no_index(index)
    counters = variables.environment.counters

    def get(ctx: RouteContext, name: str) -> Xval:
        if name in counters:
            return counters[name]
        suffix = "." + name
        return next((value for key, value in counters.items() if key.endswith(suffix)), None)

    return Accessor(with_name(variables.name(required(inner)), get))


def _version(inner: str | None, index: str | None, variables: Variables) -> Accessor:
    no_index(index)
    version = variables.environment.version
    texts = {"num": version, "full": f"polykemi {version}", "hash": "unknown"}
    if inner not in texts:
        raise ValueError("it is $version(num), $version(full) or $version(hash)")
    text = texts[inner]
    return Accessor(lambda ctx: text)


def _ksr(inner: str | None, index: str | None, variables: Variables) -> Accessor:
    no_index(index)
    version = variables.environment.version
    numbers = [to_int(part) for part in version.split(".")] + [0, 0, 0]
    values: dict[str, Xval] = {"ver": version, "verval": numbers[0] * 1_000_000 + numbers[1] * 1000 + numbers[2]}
    if inner not in values:
        raise ValueError("it is $ksr(ver) or $ksr(verval)")
    value = values[inner]
    return Accessor(lambda ctx: value)


def _unique_id(variables: Variables) -> Accessor:
    environment = variables.environment
    return Accessor(lambda ctx: None if environment.ids is None else f"srid-{environment.ids.unique()}")


def _pid(variables: Variables) -> Accessor:
    environment = variables.environment
    return Accessor(lambda ctx: environment.pid)


def _message_id(variables: Variables) -> Accessor:
    """``$mi``: numbers the messages whose number was asked for."""
    environment = variables.environment

    def get(ctx: RouteContext) -> Xval:
        number: int | None = ctx.cache.get("pv.mi")
        if number is None:
            environment.messages += 1
            number = ctx.cache["pv.mi"] = environment.messages
        return number

    return Accessor(get)


def _evaluated(inner: str | None, index: str | None, variables: Variables) -> Accessor:
    """``$_s(format)``: the text that a format string expands to."""
    no_index(index)
    return Accessor(variables.text(required(inner)))


def _text(value: Xval) -> Factory:
    return plain(lambda ctx: value)


def _return_code(ctx: RouteContext) -> Xval:
    return 0  # of native route blocks, which there are none of here


def _null(ctx: RouteContext) -> Xval:
    return None


# $cfg(x): the place in Kamailio's own script language, which is never run here
_NO_CONFIGURATION: Final = {"line": _return_code, "name": _null, "file": _null, "route": _null}


_ZERO = _stored(lambda variables: variables.environment.variables, 0, 0)
_CHARACTERS: Final = {
    "b": "\\",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "s": " ",
    "c": ",",
    "q": '"',
    "k": "'",
    "i": ":",
    "j": ";",
    "v": "`",
}
_COLORS: Final = {"x": "39", "s": "30", "r": "31", "g": "32", "y": "33", "b": "34", "p": "35", "c": "36", "w": "37"}


def _color_code(inner: str | None, index: str | None, variables: Variables) -> Accessor:
    """``$C(xy)``: the terminal's code for foreground x and background y (xlog); an upper-case x is bold."""
    no_index(index)
    pair = required(inner)
    if len(pair) != 2 or pair[0].lower() not in _COLORS or pair[1] not in _COLORS:
        raise ValueError(f"{pair!r} are no colors")
    foreground, background = _COLORS[pair[0].lower()], int(_COLORS[pair[1]]) + 10
    text = "\x1b[0m" if pair == "xx" else f"\x1b[{int(pair[0].isupper())};{foreground};{background}m"
    return Accessor(lambda ctx: text)


CLASSES: Final[dict[str, Factory]] = {
    "$": _text("$"),
    "null": _text(None),
    "true": _text(1),
    "rc": plain(_return_code),
    "retcode": plain(_return_code),
    "?": plain(_return_code),
    "var": _ZERO,
    "vz": _ZERO,
    "vn": _stored(lambda variables: variables.environment.null_variables, None, None),
    "shv": _stored(lambda variables: variables.environment.shared, 0, ""),
    "shvinc": _incremented,
    **_flag_classes("m", lambda ctx: ctx.shared.flags, _put_message_flags),
    **_flag_classes("b", lambda ctx: ctx.bflags, _put_branch_flags),
    **_flag_classes("s", lambda ctx: ctx.sflags, _put_script_flags),
    "env": _of_mapping(lambda variables: variables.environment.process, number=False),
    "envn": _of_mapping(lambda variables: variables.environment.process, number=True),
    "def": _of_mapping(lambda variables: variables.environment.definitions, number=False),
    "defv": _of_mapping(lambda variables: variables.environment.definitions, number=False),
    "defn": _of_mapping(lambda variables: variables.environment.definitions, number=True, absent=0),
    "defs": _unquoted,
    "stat": _statistic,
    "version": _version,
    "ksr": _ksr,
    "sid": _text(0),
    "cfg": keyed(_NO_CONFIGURATION),
    **{f"err.{name}": _text(None) for name in ("class", "level", "info", "rcode", "rreason")},  # as in Kamailio
    "sruid": of_environment(_unique_id),
    "pp": of_environment(_pid),
    "mi": of_environment(_message_id),
    "_s": _evaluated,
    "C": _color_code,
    **{f"E{letter}": _text(character) for letter, character in _CHARACTERS.items()},
}
