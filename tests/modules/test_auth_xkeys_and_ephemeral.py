"""auth_xkeys and auth_ephemeral: what an operator sees and changes, and what parameters must not say."""

from __future__ import annotations

from typing import Any

import pytest

from polykemi.errors import RpcError
from polykemi.modules.auth import Auth
from polykemi.modules.auth_ephemeral import AuthEphemeral, AuthEphemeralParams
from polykemi.modules.auth_xkeys import AuthXkeys, AuthXkeysParams
from polykemi.modules.sl import Sl
from tests.support import message, request_context, services


def test_keys_are_listed_and_added() -> None:
    keys: AuthXkeys = services(
        AuthXkeys, params={"auth_xkeys": {"xkey": ("id=a;name=1;value=x;expires=5", "id=A;name=2;value=y")}}
    ).modules["auth_xkeys"]
    assert keys.list_keys() == [
        {"KID": "a", "KEYS": [{"NAME": "2", "VALUE": "y", "EXPIRES": 0}, {"NAME": "1", "VALUE": "x", "EXPIRES": 5}]}
    ]
    keys.set_key("b", "n", "z", 7)
    keys.set_key("a", "n", "z", 9)
    assert [key.expires for chain in keys.chains.values() for key in chain] == [9, 5, 7]
    ctx = request_context(message("OPTIONS sip:example.test SIP/2.0"))
    assert keys.auth_xkeys_add(ctx, "X", "B", "sha256", "d") == 1
    with pytest.raises(RpcError, match="No keys"):
        AuthXkeys(services()).list_keys()


@pytest.mark.parametrize("xkey", ["", "id=a", "id=a;name=b;value=", "id=a;name=b;value=c;expires=x"])
def test_a_bad_key_is_told(xkey: str) -> None:
    with pytest.raises(ValueError, match="expected id="):
        AuthXkeysParams(xkey=(xkey,))


@pytest.mark.parametrize("params", [{"username_format": 2}, {"sha_algorithm": 4}])
def test_a_bad_parameter_is_told(params: Any) -> None:
    with pytest.raises(ValueError, match="expected 0"):
        AuthEphemeralParams(**params)


def test_secrets_come_and_go() -> None:
    module: AuthEphemeral = services(
        Sl, Auth, AuthEphemeral, params={"auth_ephemeral": {"secret": ("a", "b")}}
    ).modules["auth_ephemeral"]
    module.add_secret("c")
    assert module.dump_secrets() == ["ID 0: c", "ID 1: b", "ID 2: a"]
    module.rm_secret(1)
    assert module.dump_secrets() == ["ID 0: c", "ID 1: a"]
    with pytest.raises(RpcError, match="Failed removing secret"):
        module.rm_secret(5)


def test_a_name_is_good_until_its_time() -> None:
    module: AuthEphemeral = services(Sl, Auth, AuthEphemeral, params={"auth_ephemeral": {"secret": ("a",)}}).modules[
        "auth_ephemeral"
    ]
    name = "1800000010:alice"
    password = module._password(name, "a")
    for now, answer in ((1_800_000_010.9, 1), (1_800_000_011.0, -7)):
        ctx = request_context(message("OPTIONS sip:example.test SIP/2.0"), now=now)
        assert module.autheph_authenticate(ctx, name, password) == answer
