"""JSON-RPC 2.0: every request has the answer that the specification gives it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from polykemi.control.jsonrpc import LARGEST_BATCH, JsonRpc
from polykemi.errors import DataError, RpcError
from polykemi.kemi.rpc import Later, rpc


class Part:
    """Commands that answer, and that fail in each way."""

    def __init__(self) -> None:
        self.noted: list[str] = []
        self.waiting: list[Later] = []

    @rpc("x.echo")
    def echo(self, *words: str) -> list[str]:
        """Return what came."""
        return list(words)

    @rpc("x.note")
    def note(self, word: str) -> dict[str, Any]:
        """Keep what came."""
        self.noted.append(word)
        return {}

    @rpc("x.octets")
    def octets(self) -> dict[str, Any]:
        """Return text as it is inside: octets."""
        return {"j\xc3\xbcrgen": ["\xc3\x9f", "\xff"]}

    @rpc("x.fail")
    def fail(self, how: str) -> None:
        """Fail."""
        raise {
            "rpc": RpcError(404, "no such user"),
            "data": DataError("disk full"),
            "bug": KeyError("oops"),
            "path": DataError("/\u6f22: disk full"),
        }[how]

    @rpc("x.later")
    def later(self, word: str) -> Later:
        """Answer when the test says so."""
        self.waiting.append(Later())
        return self.waiting[-1]

    @rpc("x.odd")
    def odd(self) -> object:
        """Return what is no JSON."""
        return object()


@pytest.fixture
def part() -> Part:
    return Part()


@pytest.fixture
def server(part: Part) -> JsonRpc:
    server = JsonRpc()
    server.add(part)
    return server


def call(server: JsonRpc, method: str, *params: Any) -> Any:
    """Return the answer to a well-formed request."""
    return ask(server, {"jsonrpc": "2.0", "method": method, "params": params, "id": 1})


def ask(server: JsonRpc, request: Any) -> Any:
    data = request if isinstance(request, bytes) else json.dumps(request).encode()
    answer = server.answer(data)
    assert isinstance(answer, bytes)
    assert b"\n" not in answer
    return json.loads(answer)


def error(server: JsonRpc, request: Any) -> tuple[int, Any]:
    """Return the code of the error that ``request`` is answered with, and the id."""
    answer = ask(server, request)
    assert set(answer) == {"jsonrpc", "error", "id"}
    assert answer["error"]["message"]
    return answer["error"]["code"], answer["id"]


@pytest.mark.parametrize("ident", [1, "a", 2.5, None, 10**30])
def test_a_result_goes_back_with_the_id_that_came(server: JsonRpc, ident: Any) -> None:
    answer = ask(server, {"jsonrpc": "2.0", "method": "x.echo", "params": ["a", 1], "id": ident})
    assert answer == {"jsonrpc": "2.0", "result": ["a", "1"], "id": ident}


def test_params_may_be_missing(server: JsonRpc) -> None:
    assert ask(server, {"jsonrpc": "2.0", "method": "x.echo", "id": 1})["result"] == []


def test_params_by_name(server: JsonRpc, part: Part) -> None:
    assert ask(server, {"jsonrpc": "2.0", "method": "x.note", "params": {"word": "a"}, "id": 1})["result"] == {}
    assert part.noted == ["a"]


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"nonsense", b"\xff\xfe\xfa", b"[" * 50_000, b"NaN", b'{"id": 1e999}', b'{"id": ' + b"9" * 5000 + b"}"],
)
def test_what_is_no_json_is_a_parse_error(server: JsonRpc, data: bytes) -> None:
    assert error(server, data) == (-32700, None)


@pytest.mark.parametrize(
    ("request_", "ident"),
    [
        (1, None),
        ("x.echo", None),
        (None, None),
        ([], None),
        ({}, None),
        ({"method": "x.echo", "id": 7}, 7),
        ({"jsonrpc": "1.0", "method": "x.echo", "id": 7}, 7),
        ({"jsonrpc": "2.0", "id": 7}, 7),
        ({"jsonrpc": "2.0", "method": 3, "id": 7}, 7),
        ({"jsonrpc": "2.0", "method": "x.echo", "id": {"a": 1}}, None),
        ({"jsonrpc": "2.0", "method": "x.echo", "id": True}, None),
    ],
)
def test_what_is_no_request_is_an_invalid_one(server: JsonRpc, request_: Any, ident: Any) -> None:
    assert error(server, request_) == (-32600, ident)


def test_an_unknown_method_is_named_with_the_closest_one(server: JsonRpc) -> None:
    answer = call(server, "x.ecco")["error"]
    assert answer == {"code": -32601, "message": "method x.ecco: unknown, did you mean x.echo?"}


@pytest.mark.parametrize(
    "params", ["a", 1, None, {"other": 1, "more": 2}, {"word": "a", "more": 2}, [], ["a", "b"], [None], [{}]]
)
def test_wrong_params(server: JsonRpc, params: Any) -> None:
    assert error(server, {"jsonrpc": "2.0", "method": "x.note", "params": params, "id": 1}) == (-32602, 1)


def test_errors_of_commands_keep_their_code_and_text(server: JsonRpc) -> None:
    assert call(server, "x.fail", "rpc")["error"] == {"code": 404, "message": "no such user"}
    assert call(server, "x.fail", "data")["error"] == {"code": -32000, "message": "disk full"}
    assert call(server, "x.fail", "path")["error"]["message"] == "/\u6f22: disk full"


@pytest.mark.parametrize("request_", [("x.fail", "bug"), ("x.odd",)])
def test_a_bug_is_logged_and_not_told(
    server: JsonRpc, caplog: pytest.LogCaptureFixture, request_: tuple[str, ...]
) -> None:
    assert call(server, *request_)["error"] == {"code": -32603, "message": "Internal error"}
    assert f"{request_[0]}: internal error" in caplog.text


def test_a_notification_is_done_and_not_answered_whatever_comes_of_it(server: JsonRpc, part: Part) -> None:
    for method, params in (("x.note", ["a"]), ("x.nothing", []), ("x.fail", ["rpc"])):
        assert server.answer(json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode()) is None
    assert part.noted == ["a"]


def test_a_batch_is_answered_as_one_without_its_notifications(server: JsonRpc) -> None:
    one = {"jsonrpc": "2.0", "method": "x.echo", "params": ["a"]}
    answers = ask(server, [{**one, "id": 1}, one, 5, {**one, "id": 2}])
    assert [(a["id"], a.get("result")) for a in answers] == [(1, ["a"]), (None, None), (2, ["a"])]
    assert server.answer(json.dumps([one, one]).encode()) is None


def test_messages_have_their_turn_between_the_requests_of_a_batch(server: JsonRpc, part: Part) -> None:
    turns: list[Any] = []
    server.soon = turns.append
    note = {"jsonrpc": "2.0", "method": "x.note", "params": ["a"]}
    answers = later(server, {**note, "id": 1}, note, {**note, "method": "x.later", "id": 2})
    for noted in (1, 2, 2):
        turns.pop(0)()
        assert len(part.noted) == noted
        assert answers == []
    turns.pop(0)()
    part.waiting[0].settle("at last")
    assert [(a["id"], a["result"]) for a in answers[0]] == [(1, {}), (2, "at last")]
    silent = server.answer(json.dumps([note]).encode())
    assert isinstance(silent, Later)
    told: list[Any] = []
    silent.then(told.append)
    while turns:
        turns.pop(0)()
    assert told == [None]


def test_a_batch_has_a_largest_size(server: JsonRpc) -> None:
    one = {"jsonrpc": "2.0", "method": "x.echo", "id": 1}
    assert len(ask(server, [one] * LARGEST_BATCH)) == LARGEST_BATCH
    assert error(server, [one] * (LARGEST_BATCH + 1)) == (-32600, None)


def later(server: JsonRpc, *requests: Any) -> list[Any]:
    """Return where the answer will be."""
    answers: list[Any] = []
    one = server.answer(json.dumps(requests[0] if len(requests) == 1 else requests).encode())
    assert isinstance(one, Later)
    one.then(lambda answer: answers.append(json.loads(answer)))
    assert answers == []
    return answers


def test_an_answer_may_come_later(server: JsonRpc, part: Part) -> None:
    one = {"jsonrpc": "2.0", "method": "x.later", "params": ["a"]}
    answers = later(server, {**one, "id": 7})
    part.waiting[0].settle("j\xc3\xbcrgen")
    assert answers == [{"jsonrpc": "2.0", "result": "jürgen", "id": 7}]
    assert server.answer(json.dumps(one).encode()) is None
    part.waiting[1].settle("nobody asks")
    assert error(server, {**one, "params": [], "id": 1}) == (-32602, 1)


def test_a_later_answer_that_is_no_json_is_a_bug_that_is_logged(
    server: JsonRpc, part: Part, caplog: pytest.LogCaptureFixture
) -> None:
    answers = later(server, {"jsonrpc": "2.0", "method": "x.later", "params": ["a"], "id": 7})
    part.waiting[0].settle(object())
    assert answers[0]["error"]["code"] == -32603
    assert "x.later: internal error" in caplog.text


def test_a_batch_is_answered_when_all_answers_are_there(server: JsonRpc, part: Part) -> None:
    one = {"jsonrpc": "2.0", "method": "x.later", "params": ["a"]}
    answers = later(server, {**one, "id": 1}, one, {**one, "method": "x.echo", "id": 2}, {**one, "id": 3})
    part.waiting[2].settle("third")
    part.waiting[1].settle("silent")
    assert answers == []
    part.waiting[0].settle("first")
    assert [(a["id"], a["result"]) for a in answers[0]] == [(1, "first"), (2, ["a"]), (3, "third")]


def test_json_is_unicode_and_text_inside_is_octets(server: JsonRpc, part: Part) -> None:
    call(server, "x.note", "jürgen")
    assert part.noted == ["j\xc3\xbcrgen"]
    assert call(server, "x.octets")["result"] == {"jürgen": ["ß", "\udcff"]}


def test_an_id_beyond_ascii_comes_back_as_it_went(server: JsonRpc) -> None:
    assert ask(server, {"jsonrpc": "2.0", "method": "x.echo", "id": "ü\ud800"})["id"] == "ü\ud800"


def test_two_commands_of_one_name_are_a_mistake_of_ours(server: JsonRpc) -> None:
    with pytest.raises(TypeError, match="is there twice"):
        server.add(Part())
