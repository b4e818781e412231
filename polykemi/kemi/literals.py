"""Long stretches of literal text in a regular expression, broken up.

For a text that has to occur, the library ``regex`` makes tables when the expression is used first, and that takes time that grows with the
third power of its length: 3 s for 3,000 characters, 8 minutes for 16,384, which no time limit of its own stops.
"""

from __future__ import annotations

import re
from typing import Final

_SHORT: Final = 64  # characters of a stretch: a tenth of a millisecond
_BREAK: Final = "(?:|)"  # matches the empty text, and the library does not see that
_TOKEN: Final = re.compile(
    r"""
    (?P<open> \( (?: \? (?: [:=!>|] | <[=!] | P?<\w+> | [a-zA-Z-]+[:)] ) )? )
    | (?P<set> \[ \^? \]? (?: \\. | \[:\^?\w+:\] | [^\]\\] )* (?: \] | \Z ) )
    | (?P<escape> \\ (?: x\{[0-9a-fA-F]*\} | x[0-9a-fA-F]{0,2} | [pPgkN](?:\{[^}]{0,64}\}|<[^>]{0,64}>) | [0-9]{1,3} | . ) )
    | (?P<repeat> [*+?] | \{[0-9]*,?[0-9]*\} )
    | (?P<close> \) )
    | (?P<other> [|^$] )
    | (?P<character> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_ENDS: Final = frozenset(("set", "escape", "character", "close", "repeat"))  # a break may stand behind these ...
_BEGINS: Final = frozenset(("set", "escape", "character", "open"))  # ... and before these


def broken_up(pattern: str) -> str:
    """Return ``pattern``, in the words of the library, so that no text in it is long; it matches the same."""
    if len(pattern) <= _SHORT:
        return pattern
    pieces: list[str] = []
    count, before = 0, ""
    for token in _TOKEN.finditer(pattern):
        kind = token.lastgroup or ""
        if token[0] == "(" and pattern.startswith("(?", token.start()):
            return pattern  # a construct that this does not know
        if count >= _SHORT and before in _ENDS and kind in _BEGINS:
            pieces.append(_BREAK)
            count = 0
        pieces.append(token[0])
        count += kind not in ("open", "close", "repeat")
        before = kind
    return "".join(pieces)
