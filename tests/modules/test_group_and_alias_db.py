"""group and alias_db: tables that are not there, octets that no table can hold, too many branches."""

from __future__ import annotations

from polykemi.modules.alias_db import AliasDb
from polykemi.modules.group import Group
from polykemi.storage.provisioned import Database
from polykemi.transaction.target import MOST_TARGETS
from tests.support import message, request_context, services


def test_a_table_that_is_not_there_is_a_database_error() -> None:
    ctx = request_context(message("INVITE sip:bob@example.test SIP/2.0"))
    made = services(Group, AliasDb, params={"group": {"table": "nowhere"}})
    assert made.modules["group"].is_user_in(ctx, "sip:bob@example.test", "boss") == -5
    assert made.modules["alias_db"].lookup(ctx, "aliases; DROP TABLE dbaliases") == -1
    assert made.modules["alias_db"].lookup(ctx, "dbaliases") == -1


def test_octets_that_are_no_text_are_nobody() -> None:
    ctx = request_context(message("INVITE sip:\xff@example.test SIP/2.0"))
    made = services(Group, AliasDb)
    assert made.modules["group"].is_user_in(ctx, "sip:\xff@example.test", "boss") == -6
    assert made.modules["alias_db"].lookup(ctx, "dbaliases") == -1


def test_more_users_than_branches() -> None:
    database = Database()
    for i in range(MOST_TARGETS + 2):
        database.query(
            "INSERT INTO dbaliases (alias_username, username, domain) VALUES ('all', ?, 'example.test')", [f"u{i}"]
        )
    made = services(AliasDb, params={"alias_db": {"append_branches": 1}}, database=database)
    ctx = request_context(message("INVITE sip:all@example.test SIP/2.0"))
    assert made.modules["alias_db"].lookup(ctx, "dbaliases") == -1
    assert len(ctx.branches) == MOST_TARGETS
