"""mqueue: what is wrong in its parameters, and its commands."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.errors import RpcError
from polykemi.modules.mqueue import Mqueue, MqueueParams
from tests.support import message, request_context, services


@pytest.mark.parametrize(
    "params",
    [
        {"mqueue": ("size=3",)},
        {"mqueue": ("name=a;size=x",)},
        {"mqueue": ("name=a;addmode=3",)},
        {"mqueue": ("name=a;other=3",)},
        {"mqueue": ("name=a;dbmode=1",)},
        {"mqueue": ("name=a",), "mqueue_name": ("a",)},
        {"mqueue_name": ("",)},
        {"mqueue_addmode": 4},
        {"mqueue_size": -1},
    ],
)
def test_parameters_say_what_is_wrong(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="mqueue"):
        MqueueParams(**params)


def test_commands_look_into_the_queues_and_take_out() -> None:
    made = services(Mqueue, params={"mqueue": {"mqueue": ("name=a;",), "mqueue_name": ("b",), "mqueue_size": 1}})
    module, ctx = made.modules["mqueue"], request_context(message("OPTIONS sip:example.test SIP/2.0"))
    assert [module.mq_add(ctx, name, "k", value) for name, value in (("a", "1"), ("b", "2"), ("b", "3"))] == [1, 1, 1]
    assert module.get_sizes() == [{"name": "a", "size": 1}, {"name": "b", "size": 1}]
    assert module.get_size("a") == {"name": "a", "size": 1}
    assert module.fetch("b") == {"key": "k", "val": "3"}
    for command, name in ((module.fetch, "b"), (module.fetch, "none"), (module.get_size, "none")):
        with pytest.raises(RpcError):
            command(name)
