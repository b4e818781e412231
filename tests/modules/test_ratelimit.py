"""ratelimit and pipelimit: what the end of an interval does, and what an operator changes."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.errors import DataError, RpcError
from polykemi.kemi.context import RouteContext
from polykemi.modules.pipelimit import Pipelimit, PipelimitParams
from polykemi.modules.ratelimit import Ratelimit, RatelimitParams
from polykemi.modules.ratelimit_pipe import Feedback, Pipe
from polykemi.modules.sl import Sl
from tests.support import NOW, message, request_context, services


def context() -> RouteContext:
    return request_context(message("OPTIONS sip:example.test SIP/2.0"))


def started(**params: Any) -> Pipelimit:
    module: Pipelimit = services(Sl, Pipelimit, params={"pipelimit": params}).modules["pipelimit"]
    return module


def many(module: Pipelimit, ctx: RouteContext, name: str, n: int) -> list[int]:
    return [module.pl_check(ctx, name) for _ in range(n)]


def test_each_interval_begins_anew() -> None:
    module, ctx = started(timer_interval=5), context()
    assert module.next_timeout() is None
    assert module.pl_check_limit(ctx, "a", "TAILDROP", 2) == 1
    assert module.next_timeout() == NOW + 5
    assert many(module, ctx, "a", 2) == [1, -1]
    module.handle_timer(NOW + 4)
    assert many(module, ctx, "a", 1) == [-1]
    module.handle_timer(NOW + 5)
    assert many(module, ctx, "a", 3) == [1, 1, -1]
    (listed,) = module.list_pipes()
    assert (listed["counter"], listed["last_counter"]) == (3, 4)


def test_red_lets_one_of_so_many_pass_when_there_were_too_many() -> None:
    module, ctx = started(timer_interval=5), context()
    module.pl_check_limit(ctx, "a", "RED", 2)
    assert many(module, ctx, "a", 6) == [1] * 6
    module.handle_timer(NOW + 5)
    assert many(module, ctx, "a", 6) == [-1, -1, 1, -1, -1, 1]


def test_pipes_that_nobody_uses_go() -> None:
    module, ctx = started(timer_interval=5, clean_unused=2), context()
    module.pl_check_limit(ctx, "a", "TAILDROP", 2)
    for i in range(1, 4):
        module.handle_timer(NOW + 5 * i)
        assert module.pl_active(ctx, "a") == 1
    module.handle_timer(NOW + 20)
    assert module.pl_active(ctx, "a") == -1


def test_feedback_drops_more_when_the_load_is_too_high() -> None:
    feedback = Feedback(0.5)
    feedback.update(0.2)
    assert feedback.drop_rate == 0
    feedback.update(0.9)
    feedback.update(0.9)
    assert feedback.drop_rate == 20
    pipe = Pipe("FEEDBACK", 50)
    assert [pipe.push(50, 20) for _ in range(100)].count(-1) == 20


def test_an_operator_changes_pipes() -> None:
    module, ctx = started(), context()
    module.pl_check_limit(ctx, "a", "TAILDROP", 1)
    module.set_pipe("a", "TAILDROP", 3)
    assert many(module, ctx, "a", 4) == [1, 1, 1, -1]
    for arguments in (("b", "TAILDROP", 3), ("a", "X", 3)):
        with pytest.raises(RpcError):
            module.set_pipe(*arguments)
    with pytest.raises(RpcError):
        module.list_pipes("b")


def test_a_pipe_of_the_database_with_an_unknown_algorithm_stops_the_start() -> None:
    one = services(Sl, Pipelimit)
    one.database.query("INSERT INTO pl_pipes (pipeid, algorithm, plimit) VALUES ('a', 'X', 1)")
    with pytest.raises(DataError, match="pipe a"):
        one.modules["pipelimit"].start(NOW)


def test_the_pipes_of_ratelimit_have_intervals_and_commands() -> None:
    params = {"pipe": ("1:TAILDROP:1",), "timer_interval": 2}
    module: Ratelimit = services(Ratelimit, params={"ratelimit": params}).modules["ratelimit"]
    module.start(NOW)
    ctx = context()
    assert [module.rl_check_pipe(ctx, 1) for _ in range(3)] == [1, 1, -1]
    assert module.get_pipes() == ["PIPE[1]: 2:TAILDROP 0/1 (drop rate: 0) [3]"]
    module.handle_timer(NOW + 2)
    assert module.get_pipes() == ["PIPE[1]: 2:TAILDROP 3/1 (drop rate: 1) [0]"]
    module.set_pipe(1, "TAILDROP", 2)
    assert [module.rl_check_pipe(ctx, 1) for _ in range(5)] == [1, 1, 1, 1, -1]
    for arguments in ((16, "RED", 1), (1, "X", 1)):
        with pytest.raises(RpcError):
            module.set_pipe(*arguments)


@pytest.mark.parametrize(
    ("params", "what"),
    [
        ({"pipe": ("1:X:1",)}, "pipe"),
        ({"pipe": ("16:RED:1",)}, "pipe"),
        ({"pipe": ("1:FEEDBACK:101",)}, "pipe"),
        ({"pipe": ("1:FEEDBACK:50", "2:FEEDBACK:60")}, "FEEDBACK"),
        ({"queue": ("1",)}, "queue"),
        ({"queue": ("0:A",) * 11}, "queue"),
        ({"timer_interval": 0}, "timer_interval"),
    ],
)
def test_a_wrong_parameter_of_ratelimit_is_named(params: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        RatelimitParams(**params)


@pytest.mark.parametrize("params", [{"timer_interval": 0}, {"reply_code": 200}, {"plp_table_name": "a b"}])
def test_a_wrong_parameter_of_pipelimit_is_named(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        PipelimitParams(**params)
