"""JSON documents: octets and Unicode, and how they are printed."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.kemi.documents import compact, pretty, with_octets, with_unicode

OCTETS = {"n\xc3\xa4me": ["gr\xc3\xbc\xc3\x9fe", 1, None], "on": True}
UNICODE = {"n\xe4me": ["gr\xfc\xdfe", 1, None], "on": True}


def test_texts_are_octets_inside_and_unicode_outside() -> None:
    assert with_unicode(OCTETS) == UNICODE
    assert with_octets(UNICODE) == OCTETS
    assert with_unicode("/\u20ac") == "/\u20ac"  # Unicode already


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({}, "{\n}"),
        ({"a": 1, "b": {"c": [1, "x"]}}, '{\n\t"a":\t1,\n\t"b":\t{\n\t\t"c":\t[1, "x"]\n\t}\n}'),
        ([1.0, 0.5, None], "[1, 0.500000, null]"),
    ],
)
def test_kamailio_prints_objects_over_several_lines(document: Any, text: str) -> None:
    assert pretty(document) == text


def test_compact_has_no_blanks() -> None:
    assert compact({"a": [1, "\xfc"]}) == '{"a":[1,"\xfc"]}'
