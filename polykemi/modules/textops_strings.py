"""The part of KSR.textops that looks at plain strings, not at messages (Kamailio: modules/textops)."""

from __future__ import annotations

from polykemi.kemi.context import RouteContext
from polykemi.kemi.registry import export
from polykemi.modules.base import Module


class StringFunctions(Module):
    """Comparison of strings; lists in strings."""

    @export()
    def in_list(self, ctx: RouteContext, text: str, items: str, separator: str) -> int:
        """Tell whether ``text`` is one of ``items``, which ``separator`` and blanks part. Answers 1 or -1."""
        return 1 if text in _items(items, separator) else -1

    @export()
    def in_list_prefix(self, ctx: RouteContext, text: str, items: str, separator: str) -> int:
        """Tell whether ``text`` starts with one of ``items``, which ``separator`` and blanks part. Answers 1 or -1."""
        return 1 if text.startswith(tuple(_items(items, separator))) else -1

    @export()
    def cmp_str(self, ctx: RouteContext, one: str, other: str) -> int:
        """Compare two strings. Answers 1 when they are equal, -1 when ``one`` is greater, -2 when it is less."""
        return _compare(one, other)

    @export()
    def cmp_istr(self, ctx: RouteContext, one: str, other: str) -> int:
        """Compare two strings without the case of ASCII letters. Answers like ``cmp_str``."""
        return _compare(_lower(one), _lower(other))

    @export()
    def starts_with(self, ctx: RouteContext, text: str, start: str) -> int:
        """Tell whether ``text`` starts with ``start``. Answers 1, -1 when it is too short or greater, -2 when it is less."""
        return _compare(text[: len(start)], start) if len(text) >= len(start) else -1

    @export()
    def ends_with(self, ctx: RouteContext, text: str, end: str) -> int:
        """Tell whether ``text`` ends with ``end``. Answers 1, -1 when it is too short or greater, -2 when it is less."""
        return _compare(text[len(text) - len(end) :], end) if len(text) >= len(end) else -1

    @export()
    def str_find(self, ctx: RouteContext, text: str, part: str) -> int:
        """Return where ``text`` contains ``part``, 1 being its first octet; -1 when it does not.

        An empty part is found behind the end, as in Kamailio.
        """
        return text.find(part) + 1 or -1 if part else len(text) + 1

    @export()
    def str_ifind(self, ctx: RouteContext, text: str, part: str) -> int:
        """Return where ``text`` contains ``part``, whatever the case of ASCII letters, 1 being its first octet; else -1."""
        return _lower(text).find(_lower(part)) + 1 or -1

    @export()
    def str_any_in(self, ctx: RouteContext, text: str, characters: str) -> int:
        """Tell whether one of ``characters`` is in ``text``. Answers 1 or -1."""
        return 1 if any(c in text for c in characters) else -1

    @export()
    def str_all_in(self, ctx: RouteContext, text: str, characters: str) -> int:
        """Tell whether all ``characters`` are in ``text``. Answers 1 or -1."""
        return 1 if characters and all(c in text for c in characters) else -1


def _lower(text: str) -> str:
    """Return ``text`` with ASCII letters in lower case: octets above 0x7F stay."""
    return text.encode("latin-1").lower().decode("latin-1")


def _compare(one: str, other: str) -> int:
    return 1 if one == other else -1 if one > other else -2


def _items(text: str, separator: str) -> list[str]:
    """Return the items of a list, without the blanks around them; empty ones are none."""
    return [item for part in text.split(separator) if (item := part.strip(" \t\r\n"))] if separator else []
