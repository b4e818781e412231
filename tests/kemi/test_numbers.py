"""Numbers in texts."""

from __future__ import annotations

import pytest

from polykemi.kemi.numbers import is_number, leading_number


@pytest.mark.parametrize("text", ["0", "-1", "+15", "123456789012345678"])
def test_a_number_is_digits_with_or_without_a_sign(text: str) -> None:
    assert is_number(text)


@pytest.mark.parametrize("text", ["", "-", "--1", " 1", "1 ", "1.5", "0x1", "\xb2", "1234567890123456789"])
def test_all_else_is_none(text: str) -> None:
    assert not is_number(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 0),
        ("12 apples", 12),
        (" \t-3", -3),
        ("+7;", 7),
        ("apples", 0),
        ("-", 0),
        ("99999999999", 0x7FFFFFFF),
        ("-" + 5000 * "9", -0x80000000),
    ],
)
def test_the_number_at_the_start_is_taken_as_c_does(text: str, number: int) -> None:
    assert leading_number(text) == number
