"""An edge proxy with outbound (RFC 5626): a phone on TCP is reached over its own connection, and over nothing else."""

from __future__ import annotations

import signal
import socket
from contextlib import closing
from pathlib import Path

from polykemi.control.client import SOCKET, call
from tests.e2e.conftest import ServerProcess
from tests.e2e.stream_phone import StreamPhone, values
from tests.waiting import PATIENCE, until

SCRIPT = """
function ksr_request_route()
    if KSR.is_method("REGISTER") then
        KSR.path.add_path()
        KSR.pv.sets("$du", KSR.pv.get("$hdr(X-Registrar)"))
        KSR.tm.t_relay()
    elseif KSR.rr.loose_route() == -2 then
        KSR.sl.send_reply(403, "Forbidden")
    else
        KSR.tm.t_relay()
    end
end
"""


def test_a_request_goes_over_the_flow_of_the_phone_or_gets_430(tmp_path: Path) -> None:
    script, config = tmp_path / "edge.lua", tmp_path / "polykemi.toml"
    script.write_text(SCRIPT)
    config.write_text(f'[engines]\nlua = "{script}"\n[modules.outbound]\n')
    server = ServerProcess(tmp_path, ["--config", str(config)])
    edge = ("127.0.0.1", server.port)
    try:
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as registrar:
            registrar.bind(("127.0.0.1", 0))
            registrar.settimeout(PATIENCE)
            registrar_uri = "sip:{}:{}".format(*registrar.getsockname())
            phone = StreamPhone("alice", server.port)
            phone.contact += ';+sip.instance="<urn:uuid:1>";reg-id=1'
            phone.request("REGISTER", "sip:e2e.test", "<sip:alice@e2e.test>", f"X-Registrar: {registrar_uri}")
            (path,) = values(registrar.recv(65536).decode(), "Path")
            assert path.endswith(f"@127.0.0.1:{server.port};transport=tcp;lr;ob>")

            def invite(route: str, number: int) -> None:
                via = f"SIP/2.0/UDP {registrar_uri.removeprefix('sip:')};branch=z9hG4bK{number}"
                lines = ["INVITE sip:alice@10.0.0.1 SIP/2.0", f"Via: {via}", f"Route: {route}", "Max-Forwards: 70"]
                lines += ["From: <sip:bob@e2e.test>;tag=b", "To: <sip:alice@e2e.test>", f"Call-ID: c{number}"]
                registrar.sendto("\r\n".join([*lines, "CSeq: 1 INVITE", "Content-Length: 0", "", ""]).encode(), edge)

            def answer(number: int) -> str:
                """Return the status line of the answer to an INVITE, 100 aside."""
                while True:
                    text = registrar.recv(65536).decode()
                    if f"Call-ID: c{number}\r\n" in text and not text.startswith("SIP/2.0 100"):
                        return text.partition("\r\n")[0]

            invite(path, 1)
            arrived = phone.expect("INVITE sip:alice@10.0.0.1 SIP/2.0")
            assert not values(arrived, "Route")
            phone.answer(arrived, "486 Busy Here")
            assert answer(1) == "SIP/2.0 486 Busy Here"
            phone.close()
            until(lambda: not call(server.data / SOCKET, "core.tcp_list", []), "the end of the connection")
            invite(path, 2)
            assert answer(2) == "SIP/2.0 430 Flow Failed"
            invite(path.replace("ob.", "ob.A", 1), 3)
            assert answer(3) == "SIP/2.0 403 Forbidden"
    finally:
        server.stop(signal.SIGTERM)
