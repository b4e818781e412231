"""cfgutils: pauses, the end of the server, locks that were not released, commands."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.errors import RpcError
from polykemi.kemi.context import RouteContext
from polykemi.modules.base import Services
from polykemi.modules.cfgutils import Cfgutils, CfgutilsParams
from tests.support import message, request_context, services


def made(**params: Any) -> tuple[Services, Cfgutils, RouteContext]:
    out = services(Cfgutils, params={"cfgutils": params})
    return out, out.modules["cfgutils"], request_context(message("OPTIONS sip:example.test SIP/2.0"))


def test_pauses_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    server, module, ctx = made()
    paused: list[float] = []
    server.pause = paused.append
    assert [module.usleep(ctx, 250), module.sleep(ctx, 1), module.sleep(ctx, 60), module.sleep(ctx, -5)] == [1, 1, 1, 1]
    assert paused == [0.00025, 1.0, 1.0, 0.0]
    assert "would hold up every call" in caplog.text


def test_abort_ends_the_server() -> None:
    server, module, ctx = made()
    ended: list[bool] = []
    server.abort = lambda: ended.append(True)
    module.abort(ctx)
    assert ended == [True]


def test_a_lock_that_was_not_released_is_taken_over(caplog: pytest.LogCaptureFixture) -> None:
    _, module, ctx = made(lock_set_size=4)
    assert (module.lock(ctx, "a"), module.lock(ctx, "a")) == (1, 1)
    assert "was not released" in caplog.text
    assert (module.unlock(ctx, "a"), module.trylock(ctx, "a")) == (1, 1)


def test_chance_is_about_as_often_as_it_is_said() -> None:
    _, module, ctx = made(initial_probability=30)
    events = sum(module.rand_event(ctx) > 0 for _ in range(4000))
    assert 800 < events < 1600


def test_commands_see_the_probability() -> None:
    _, module, ctx = made()
    module.set_probability(77)
    assert (module.get_probability(), module.rand_get_prob(ctx)) == ("actual probability: 77 percent", 77)
    module.reset_probability()
    assert module.rand_get_prob(ctx) == 10
    with pytest.raises(RpcError):
        module.set_probability(101)


@pytest.mark.parametrize("params", [{"initial_probability": 101}, {"initial_probability": -1}, {"lock_set_size": -1}])
def test_parameters_say_what_is_expected(params: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected 0 to"):
        CfgutilsParams(**params)
