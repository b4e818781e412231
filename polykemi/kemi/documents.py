"""Lists and dictionaries as JSON has them: their texts as octets or Unicode, and how Kamailio prints them (its srjson)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from polykemi.kemi.binding import from_octets, to_octets


def with_octets(document: Any) -> Any:
    """Return the document with its texts as octets."""
    if isinstance(document, str):
        return to_octets(document)
    if isinstance(document, Mapping):
        return {to_octets(key): with_octets(one) for key, one in document.items()}
    return [with_octets(one) for one in document] if isinstance(document, list | tuple) else document


def with_unicode(document: Any) -> Any:
    """Return the document with its texts as Unicode; a text that is no octets stays, such as the path in an error."""
    if isinstance(document, str):
        try:
            return document if document.isascii() else from_octets(document)
        except UnicodeEncodeError:
            return document
    if isinstance(document, Mapping):
        return {with_unicode(key): with_unicode(one) for key, one in document.items()}
    return [with_unicode(one) for one in document] if isinstance(document, list | tuple) else document


def compact(document: Any) -> str:
    """Return the document as JSON without blanks; octets stay what they are."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def pretty(document: Any, depth: int = 0) -> str:
    """Return the document as JSON as Kamailio prints it: objects over several lines with tabs, lists on one."""
    if isinstance(document, Mapping):
        inner = "\t" * (depth + 1)
        members = ",\n".join(f"{inner}{compact(key)}:\t{pretty(one, depth + 1)}" for key, one in document.items())
        return f"{{\n{members}\n{inner[1:]}}}" if members else f"{{\n{inner[1:]}}}"
    if isinstance(document, list | tuple):
        return f"[{', '.join(pretty(one, depth + 1) for one in document)}]"
    if isinstance(document, float) and math.isfinite(document):
        return str(int(document)) if document.is_integer() and abs(document) < 1e15 else f"{document:f}"
    return compact(document)
