"""dispatcher: what its cases cannot show: list files, calls that expire, weights, latency, what an operator asks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from polykemi.errors import DataError, RpcError
from polykemi.kemi.context import RouteContext
from polykemi.kemi.rpc import commands_of
from polykemi.modules.base import Services
from polykemi.modules.dispatcher import Dispatcher
from polykemi.modules.dispatcher_lists import DispatcherParams
from polykemi.modules.dispatcher_sets import Latency, Row, hash_of, parse_list, walk
from polykemi.storage.provisioned import Database
from tests.support import NOW, message, request_context, services


def database(*rows: tuple[Any, ...]) -> Database:
    """Return a database whose dispatcher table has rows of set, destination, flags, priority, attrs."""
    made = Database()
    for row in rows:
        values = [*row, *(0, 0, "")[len(row) - 2 :]]
        made.query("INSERT INTO dispatcher (setid, destination, flags, priority, attrs) VALUES (?, ?, ?, ?, ?)", values)
    return made


def server(*rows: tuple[Any, ...], **params: Any) -> Services:
    return services(Dispatcher, params={"dispatcher": {"flags": 2, **params}}, database=database(*rows))


def invite(call_id: str = "c", now: float = NOW) -> RouteContext:
    return request_context(message("INVITE sip:bob@example.test SIP/2.0", call_id=call_id), now=now)


def ask(made: Services, name: str, *args: Any) -> Any:
    return next(c for c in commands_of(made.modules["dispatcher"]) if c.name == f"dispatcher.{name}").run(args, NOW)


LIST = """\
# a comment
1 sip:192.0.2.20:5060
  2   sip:192.0.2.21   8   5   duid=x;weight=10 and what follows is nothing

2 sip:192.0.2.22#glued
3 sip:192.0.2.23 1 # no priority
"""


def test_a_list_file_has_one_destination_a_line(tmp_path: Path) -> None:
    assert list(parse_list(LIST)) == [
        Row(1, "sip:192.0.2.20:5060"),
        Row(2, "sip:192.0.2.21", 8, 5, "duid=x;weight=10"),
        Row(2, "sip:192.0.2.22"),
        Row(3, "sip:192.0.2.23", 1),
    ]
    path = tmp_path / "dispatcher.list"
    path.write_text(LIST)
    made = server((9, "sip:192.0.2.99"), list_file=path)
    assert {n: [d.uri for d in s.destinations] for n, s in made.modules["dispatcher"].sets.items()} == {
        1: ["sip:192.0.2.20:5060"],
        3: ["sip:192.0.2.23"],
        2: ["sip:192.0.2.21", "sip:192.0.2.22"],
    }
    path.write_text("1\n")
    assert made.modules["dispatcher"].ds_reload(invite()) == -1
    assert 2 in made.modules["dispatcher"].sets  # they stay
    with pytest.raises(RpcError, match="line 1: expected setid and URI"):
        ask(made, "reload")


def test_a_list_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dispatcher: list_file .*none: No such file"):
        server(list_file=tmp_path / "none")


def test_a_bad_destination_is_left_out_or_spoils_the_list(caplog: pytest.LogCaptureFixture) -> None:
    rows = [(1, "sip:192.0.2.20"), (1, "sip:"), (2, "sip:192.0.2.21", 0, 0, "sockname=inner")]
    assert [*server(*rows).modules["dispatcher"].sets] == [1]
    assert [r.getMessage() for r in caplog.records] == [
        "set 1: destination left out: 'sip:' is no SIP URI",
        "set 2: destination left out: there is no listener named 'inner'",
    ]
    with pytest.raises(DataError, match="dispatcher: dispatcher: 'sip:' is no SIP URI"):
        server(*rows, ds_load_mode=1)


def test_more_columns_become_attributes() -> None:
    made = database((1, "sip:192.0.2.20", 0, 0, "duid=a"))
    made.query("ALTER TABLE dispatcher ADD COLUMN pipe TEXT")
    made.query("UPDATE dispatcher SET pipe = 'p7'")
    params = {"ds_db_extra_attrs": "channel=pipe;text=description"}
    used = services(Dispatcher, params={"dispatcher": params}, database=made)
    assert used.modules["dispatcher"].sets[1].destinations[0].attrs.body == "duid=a;channel=p7"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("ds_probing_mode", 4, "ds_probing_mode: expected 0 to 3, got 4"),
        ("ds_ping_reply_codes", "class=2;code=99", "expected class=2;code=480;..., got 'code=99'"),
        ("ds_latency_estimator_alpha", 1000, "expected 1 to 999, got 1000"),
        ("table_name", "a b", "'a b' is no name of a table"),
        ("ds_db_extra_attrs", "a", "expected name=column;..., got 'a'"),
        ("ds_ping_interval", -1, "ds_ping_interval: expected 0 or more, got -1"),
    ],
)
def test_wrong_parameters_say_what_was_expected(key: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        DispatcherParams(**{key: value})


@pytest.mark.parametrize("key", ["setid_pvname", "attrs_pvname", "ds_default_socket"])
def test_what_a_parameter_names_has_to_be_there(key: str) -> None:
    with pytest.raises(DataError, match=key):
        server(**{key: "$si"})


def test_weights_are_shares_of_a_hundred_calls() -> None:
    made = server(
        *[(1, f"sip:192.0.2.{i}", 0, 0, f"weight={w};rweight={w}") for i, w in ((1, 10), (2, 20), (3, 30))],
    )
    module = made.modules["dispatcher"]

    def shares(algorithm: int) -> Counter[str]:
        taken: Counter[str] = Counter()
        for _ in range(100):
            ctx = invite()
            assert module.ds_select_dst(ctx, 1, algorithm) == 1
            taken[ctx.dst_uri] += 1
        return taken

    # the last of the list gets what the weights leave of a hundred
    assert shares(9) == {"sip:192.0.2.1": 50, "sip:192.0.2.2": 20, "sip:192.0.2.3": 30}
    assert shares(11) == {"sip:192.0.2.1": 17, "sip:192.0.2.2": 33, "sip:192.0.2.3": 50}
    ask(made, "set_state", "ip", 1, "sip:192.0.2.3")
    assert shares(11) == {"sip:192.0.2.1": 34, "sip:192.0.2.2": 66}


def test_counted_calls_expire_earlier_when_they_are_not_answered() -> None:
    made = server((1, "sip:192.0.2.1", 0, 0, "duid=a"), ds_hash_size=2, ds_hash_expire=100, ds_hash_initexpire=50)
    module = made.modules["dispatcher"]
    for call_id in ("one", "two"):
        assert module.ds_select_dst(invite(call_id), 1, 10) == 1

    def load() -> Any:
        return ask(made, "list")["RECORDS"][0]["SET"]["TARGETS"][0]["DEST"]["RUNTIME"]["DLGLOAD"]

    assert load() == 2
    reply = message("INVITE x", call_id="one").replace(b"INVITE x", b"SIP/2.0 200 OK", 1)
    assert module.ds_load_update(request_context(reply)) == 0
    assert module.next_timeout() == NOW + 30
    module.handle_timer(NOW + 60)
    assert load() == 1
    module.handle_timer(NOW + 70)  # too early for another look
    module.handle_timer(NOW + 101)
    assert load() == 0


def test_the_next_destination_takes_the_call_over() -> None:
    made = server((1, "sip:192.0.2.1", 0, 0, "duid=a"), (1, "sip:192.0.2.2", 0, 0, "duid=b"), ds_hash_size=2)
    module, ctx = made.modules["dispatcher"], invite()
    assert module.ds_select_dst(ctx, 1, 10) == 1
    assert [d.load for d in module.sets[1].destinations] == [1, 0]
    assert module.ds_next_dst(ctx) == 1
    assert (ctx.dst_uri, [d.load for d in module.sets[1].destinations]) == ("sip:192.0.2.1", [0, 1])


def test_latency_learns() -> None:
    latency = Latency()
    for _ in range(9):
        latency.add(20, 0.9)
    assert (latency.average, latency.estimate, latency.count) == (20, 20, 9)
    latency.add(20, 0.9)
    latency.add(20, 0.9)
    assert latency.count == Latency.TRAINED
    latency.add(120, 0.9)
    assert latency.estimate == pytest.approx(30)
    assert latency.average == pytest.approx(20.01)
    assert (latency.minimum, latency.maximum, latency.congestion) == (20, 120, 9)


def test_an_operator_lists_and_changes_states() -> None:
    made = server((1, "sip:192.0.2.1", 8, 3, "duid=a;weight=7"), (1, "sip:192.0.2.2:5070;transport=udp"))
    first = {
        "URI": "sip:192.0.2.1",
        "FLAGS": "AP",
        "PRIORITY": 3,
        "ATTRS": {
            "BODY": "duid=a;weight=7",
            "DUID": "a",
            "MAXLOAD": 0,
            "WEIGHT": 7,
            "RWEIGHT": 0,
            "SOCKET": None,
            "SOCKNAME": None,
            "OBPROXY": None,
        },
    }
    second = {"URI": "sip:192.0.2.2:5070;transport=udp", "FLAGS": "AX", "PRIORITY": 0}
    listed = {"NRSETS": 1, "RECORDS": [{"SET": {"ID": 1, "TARGETS": [{"DEST": first}, {"DEST": second}]}}]}
    assert ask(made, "list") == listed
    full = ask(made, "list", "full")["RECORDS"][0]["SET"]["TARGETS"][1]["DEST"]
    assert (full["HOST"], full["PORT"], full["PROTO"]) == ("192.0.2.2", 5070, "udp")

    def states() -> list[str]:
        return [t["DEST"]["FLAGS"] for t in ask(made, "list", "short")["RECORDS"][0]["SET"]["TARGETS"]]

    ask(made, "set_state", "ip", 1, "SIP:192.0.2.1")
    assert states() == ["IP", "AX"]
    ask(made, "set_duid_state", "tp", 1, "A")
    assert states() == ["TP", "AX"]
    assert ask(made, "set_state", "dp", 1, "all") == "Ok. Dispatcher state updated."
    assert states() == ["DX", "DX"]
    for wrong in (("x", 1, "all"), ("a", 2, "all"), ("a", 1, "sip:192.0.2.9")):
        with pytest.raises(RpcError):
            ask(made, "set_state", *wrong)
    assert ask(made, "reload") == "Ok. Dispatcher successfully reloaded."
    assert states() == ["AP", "AX"]
    with pytest.raises(RpcError, match="No Destination Sets"):
        ask(server(), "list")


def test_a_hash_is_kamailios() -> None:
    # kamcmd dispatcher.hash
    assert ask(server(), "hash", 7, "alice", "example.test") == {"hashid": 3498420744, "slot": 0}
    assert (hash_of("1234567"), hash_of("")) == (928033265, 1)


@pytest.mark.parametrize(
    ("entered", "walked"),
    [
        ((1,), (1,)),
        ((1, 2), (2, 1)),
        ((1, 2, 3), (1, 3, 2)),
        ((3, 1, 2), (1, 3, 2)),
        ((3, 1, 2, 5, 4, 8), (1, 3, 2, 8, 5, 4)),
    ],
)
def test_sets_are_searched_by_branch(entered: tuple[int, ...], walked: tuple[int, ...]) -> None:
    assert tuple(walk(entered)) == walked


def test_an_operator_adds_and_removes_destinations() -> None:
    made = server((1, "sip:192.0.2.20", 0, 5), (1, "sip:192.0.2.21", 1, 5))
    dispatcher = made.modules["dispatcher"]
    dispatcher.sets[1].destinations[0].flags = 8  # states are kept
    assert ask(made, "add", 1, "sip:192.0.2.22", 0, 5, "duid=x") == "Ok. Dispatcher destination added."
    assert ask(made, "add", 7, "sip:192.0.2.27") == "Ok. Dispatcher destination added."
    uris = [(d.uri[-2:], d.flags, d.attrs.duid) for d in dispatcher.sets[1].destinations]
    assert uris == [("22", 0, "x"), ("21", 8, ""), ("20", 0, "")]
    assert dispatcher.ds_select_dst(invite(), 7, 4) == 1
    assert ask(made, "remove", 1, "SIP:192.0.2.21") == "Ok. Dispatcher destination removed."
    assert ask(made, "remove", 7, "sip:192.0.2.27") == ask(made, "remove", 9, "sip:192.0.2.27")
    assert {setid: len(one.destinations) for setid, one in dispatcher.sets.items()} == {1: 2}
    with pytest.raises(RpcError, match="Adding dispatcher dst failed: 'a b' is no SIP URI"):
        ask(made, "add", 1, "a b")
