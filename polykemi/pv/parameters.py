"""Lists of parameters, ``a=1;b``, read as Kamailio reads them (core/parser/parse_param.c)."""

from __future__ import annotations

import re
from typing import Final


class _Patterns(dict[str, re.Pattern[str]]):
    """Separator -> the pattern of one item: its name, its value in three forms, and what ends it."""

    def __missing__(self, separator: str) -> re.Pattern[str]:
        mark = re.escape(separator)
        value = rf"""(?:"([^"]*)"|'([^']*)'|((?!["'])[^ \t\r\n,{mark}]+)|$)"""
        pattern = rf"[ \t\r\n]*([^ \t\r\n,={mark}]*)[ \t\r\n]*(?:=[ \t\r\n]*{value}[ \t\r\n]*)?({mark}|[,>]|$)"
        self[separator] = compiled = re.compile(pattern)
        return compiled


_patterns: Final = _Patterns()


def split_params(text: str, separator: str) -> list[tuple[str, str]] | None:
    """Return the names and values of ``a=1;b``, values without quotes; None for what Kamailio cannot read either.

    A comma outside of quotes ends the list (unless it is the separator), an empty text or one that begins with a blank is
    none, and an item may be empty.
    """
    pattern = _patterns[separator]
    pairs: list[tuple[str, str]] = []
    text = text[:-1] if len(text) > 1 and text[-1] == separator else text
    at = 0
    while text[:1] not in ("", " ", "\t", "\r", "\n") and (match := pattern.match(text, at)):
        name, quoted, apostrophes, plain, end = match.groups()
        value = quoted if quoted is not None else apostrophes if apostrophes is not None else plain
        pairs.append((name, value or ""))
        at = match.end()
        if end != separator:
            return pairs
        if at == len(text):
            break
    return None
