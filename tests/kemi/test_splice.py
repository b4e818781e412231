"""Changes inside of a line or a body: each at its place in the original."""

from __future__ import annotations

from polykemi.kemi.splice import line_of, splice_body, splice_line, spliced
from polykemi.sip.message import Edits, Request, parse


def message(body: str = "one two three") -> Request:
    parsed = parse(f"OPTIONS sip:b@h SIP/2.0\r\nX: a, b\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    assert isinstance(parsed, Request)
    return parsed


def test_no_splice_shifts_another_and_those_of_one_place_keep_their_order() -> None:
    assert spliced("abc", [(2, 2, "3"), (0, 0, "1"), (0, 0, "2")]) == "12ab3c"
    assert spliced("abcdef", [(1, 4, "-"), (2, 5, "+")]) == "a-+f"
    assert spliced("abcdef", [(1, 4, ""), (2, 2, "+")]) == "a+ef"


def test_a_line_remembers_what_it_was_also_in_a_copy_of_the_edits() -> None:
    request, edits = message(), Edits()
    splice_line(request, edits, 0, (3, 4, "A"))
    copy = edits.copy()
    splice_line(request, copy, 0, (6, 7, "long"))
    assert (edits.replaced[0], copy.replaced[0]) == ("X: A, b", "X: A, long")
    assert line_of(request, copy, 0) == "X: a, b"


def test_a_line_that_was_replaced_altogether_is_what_splices_see() -> None:
    request, edits = message(), Edits()
    edits.replaced[0] = "X: other"
    splice_line(request, edits, 0, (3, 3, "an"))
    assert edits.replaced[0] == "X: another"


def test_a_body_that_was_set_stays_before_what_is_spliced_into_the_one_that_came() -> None:
    request, edits = message(), Edits()
    splice_body(request, edits, (4, 7, "2"), (0, 3, "1"))
    assert edits.body == b"1 2 three"
    edits.body = b"new"
    splice_body(request, edits, (4, 7, "2"))
    assert edits.body == b"new2"
