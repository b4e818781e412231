"""dialplan: rows that are no rules, reloads, and what an operator asks."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.errors import DataError, RpcError
from polykemi.modules.base import Services
from polykemi.modules.dialplan import Dialplan, DialplanParams
from polykemi.modules.dialplan_patterns import compile_fnmatch
from polykemi.storage.provisioned import Database
from tests.support import NOW, message, request_context, services

COLUMNS = "dpid, pr, match_op, match_exp, match_len, subst_exp, repl_exp, attrs"
RULE = (1, 1, 1, "^0", 0, "^0(.*)$", "+49\\1", "national")


def server(*rows: tuple[Any, ...], **params: Any) -> Services:
    database = Database()
    for row in rows:
        add(database, row)
    return services(Dialplan, params={"dialplan": params}, database=database)


def add(database: Database, row: tuple[Any, ...]) -> None:
    database.query(f"INSERT INTO dialplan ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


@pytest.mark.parametrize(
    "row, cause",
    [
        ((1, 1, 3, "x", 0, "", "", ""), "match_op 0 (equal), 1 (regular expression) or 2 (fnmatch), got 3"),
        ((1, 1, 1, "(x", 0, "", "", ""), "bad regular expression '(x'"),
        ((1, 1, 1, "x", 0, "[", "", ""), "bad regular expression '['"),
        ((1, 1, 1, "x", 0, "(x)", "\\2", ""), "names group 2, subst_exp has 1"),
        ((1, 1, 1, "x", 0, "", "\\1", ""), "names group 1, subst_exp has 0"),
        ((1, 1, 1, "x", 0, "x" + 11 * "()", "y", ""), "has more than 10 groups"),
        ((1, 1, 1, "x", 0, "x", 10 * "\\0", ""), "has more than 9 escapes"),
        ((1, 1, 1, "x", 0, "x", "$nothing(x)", ""), "there is no $nothing"),
        ((1, 1, 1, "x", 0, "x", "5$", ""), "expected the name of a variable"),
        (("one", 1, 1, "x", 0, "x", "y", ""), "invalid literal"),
    ],
)
def test_a_row_that_is_no_rule_is_named(row: tuple[Any, ...], cause: str) -> None:
    with pytest.raises(DataError) as error:
        server(RULE, row)
    assert "dialplan: table dialplan, row 2 by pr" in str(error.value)
    assert cause in str(error.value)


def test_a_table_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="no such table: rules"):
        server(table_name="rules")
    with pytest.raises(DataError, match="is no name of a table or column"):
        server(table_name="dialplan; DROP TABLE dialplan")


def test_a_reload_takes_new_rules_or_keeps_the_old_ones() -> None:
    made = server(RULE)
    module: Dialplan = made.modules["dialplan"]
    ctx = request_context(message("INVITE sip:01@example.test SIP/2.0"))
    assert module.dp_replace(ctx, 2, "5", "$var(x)") == -2
    add(made.database, (2, 1, 0, "5", 0, "", "five", ""))
    module.reload(now=NOW)
    assert module.dp_replace(ctx, 2, "5", "$var(x)") == 1
    add(made.database, (3, 1, 1, "(", 0, "", "", ""))
    with pytest.raises(RpcError, match=r"Dialplan Reload Failed: .*row 3"):
        module.reload(now=NOW)
    assert module.dp_replace(ctx, 2, "5", "$var(x)") == 1
    assert module.dp_translate(ctx, 1) == 1
    assert ctx.ruri == "sip:+491@example.test"


def test_an_operator_translates_without_a_message() -> None:
    variables = (1, 2, 1, "^pv", 0, "^pv(.*)$", "$rU-\\1\\u", "")
    module = server(RULE, variables).modules["dialplan"]
    assert module.translate(1, "0123") == {"Output": "+49123", "Attributes": "national"}
    assert module.translate(1, "pvx") == {"Output": "$rU-x\\u", "Attributes": ""}
    for dpid, text, cause in ((1, "77", "No translation"), (2, "77", "not matched"), (1, "", "Empty input")):
        with pytest.raises(RpcError, match=cause):
            module.translate(dpid, text)


def test_rules_are_listed_in_the_order_of_their_use() -> None:
    rows = [(1, 3, 0, "c", 0, "", "z", ""), (1, 1, 0, "a", 5, "", "x", "q"), (1, 2, 0, "b", 2, "", "y", ""), RULE]
    module = server(*rows).modules["dialplan"]
    listed = module.dump(1)
    assert [entry["ENTRY"]["MATCHEXP"] for entry in listed["ENTRIES"]] == ["b", "a", "^0", "c"]
    assert listed["ENTRIES"][1]["ENTRY"] == {
        "PRIO": 1,
        "MATCHOP": 0,
        "MATCHEXP": "a",
        "MATCHLEN": 5,
        "SUBSTEXP": "",
        "REPLEXP": "x",
        "ATTRS": "q",
    }
    with pytest.raises(RpcError, match="Dialplan ID not matched"):
        module.dump(2)


def test_attributes_go_into_variables_alone() -> None:
    with pytest.raises(ValueError, match="attrs_pvar: expected an AVP, XAVP or \\$var, got '\\$rU'"):
        DialplanParams(attrs_pvar="$rU")
    with pytest.raises(ValueError, match="attrs_pvar"):
        DialplanParams(attrs_pvar="attrs")


@pytest.mark.parametrize(
    "pattern, text, matches",
    [
        ("a*c", "abc", True),
        ("a*c", "abcd", False),
        ("a?c", "ac", False),
        ("*", "", True),
        ("[a-c]x", "bx", True),
        ("[!a-c]x", "bx", False),
        ("[^a-c]x", "dx", True),
        ("[]a]", "]", True),
        ("[a-]", "-", True),
        ("[a", "[a", True),
        ("[[:upper:]]", "A", True),
        ("[[:upper:]]", "a", False),
        ("\\*", "*", True),
        ("\\*", "x", False),
        ("x\\", "x\\", False),
        ("[\\]]", "]", True),
        ("a.c", "abc", False),
        ("*a", "x\na", True),
    ],
)
def test_patterns_of_file_names(pattern: str, text: str, matches: bool) -> None:
    assert compile_fnmatch(pattern).matches(text) is matches
