"""Numbers in texts, as C and Kamailio read them."""

from __future__ import annotations

import re
from typing import Final

_LEADING: Final = re.compile(r"[ \t]*([+-]?[0-9]{1,20})")


def is_number(text: str) -> bool:
    """Tell whether all of ``text`` is a decimal number, with or without a sign."""
    digits = text[1:] if text[:1] in ("-", "+") else text
    return 0 < len(digits) <= 18 and digits.isascii() and digits.isdecimal()


def leading_number(text: str) -> int:
    """Return the number that ``text`` begins with, behind blanks, 0 when there is none; within 32 bits (C's ``atoi``)."""
    found = _LEADING.match(text)
    return max(-0x80000000, min(int(found[1]), 0x7FFFFFFF)) if found is not None else 0
