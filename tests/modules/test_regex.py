"""regex: files that cannot be used, and reloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polykemi.errors import DataError, RpcError
from polykemi.modules.regex import Regex, RegexParams
from tests.support import NOW, message, request_context, services

CTX = request_context(message("OPTIONS sip:example.test SIP/2.0"))


def module(file: Path | None = None, **params: Any) -> Regex:
    made: Regex = services(Regex, params={"regex": {"file": file, **params}}).modules["regex"]
    return made


@pytest.mark.parametrize(
    "text, params, cause",
    [
        ("^a\n", {}, "groups.txt:1: expected \\[0\\] before the first expression"),
        ("# nothing\n", {}, "expected 1 to 20 groups \\(max_groups\\), got 0"),
        ("[0]\na\n[1]\nb\n", {"max_groups": 1}, "expected 1 to 1 groups \\(max_groups\\), got 2"),
        ("[0]\na\n[1]\n(b\n", {}, "group 1: bad regular expression"),
        ("[0]\n" + "a\n" * 10, {"group_max_size": 20}, "group 0 has more than 20 octets"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, params: dict[str, int], cause: str) -> None:
    file = tmp_path / "groups.txt"
    file.write_text(text)
    with pytest.raises(DataError, match=cause):
        module(file, **params)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: No such file"):
        module(tmp_path / "nowhere")


def test_a_reload_takes_new_groups_or_keeps_the_old_ones(tmp_path: Path) -> None:
    file = tmp_path / "groups.txt"
    file.write_text("[0]\na")
    regex = module(file)
    file.write_bytes(b"[0]\nb\r\n[1]\nc\n")
    regex.reload(now=NOW)
    assert regex.pcre_match_group(CTX, "b\r", 0) == 1  # the carriage return is a part of the expression
    assert regex.pcre_match_group(CTX, "b", 0) == -1
    assert regex.pcre_match_group(CTX, "c", 1) == 1
    file.write_text("[0]\n(\n")
    with pytest.raises(RpcError, match="Failed to reload"):
        regex.reload(now=NOW)
    assert regex.pcre_match_group(CTX, "c", 1) == 1
    assert regex.pcre_match_group(CTX, "c", -1) == -4
    with pytest.raises(RpcError, match="Group matching not enabled"):
        module().reload(now=NOW)


def test_a_hostile_expression_costs_one_call() -> None:
    assert module().pcre_match(CTX, 40 * "a" + "b", "^(a|aa|a?)+$") == -1


def test_limits_have_to_be_positive() -> None:
    with pytest.raises(ValueError, match="max_groups: expected 1 or more, got 0"):
        RegexParams(max_groups=0)
