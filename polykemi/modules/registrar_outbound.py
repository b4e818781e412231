"""What outbound (RFC 5626) asks of a registrar: may, must, or can a REGISTER use several flows. Part of registrar."""

from __future__ import annotations

from typing import Final

from polykemi.modules.registrar_contacts import Rejected, first_uri, supports
from polykemi.modules.registrar_params import OUTBOUND_NONE, OUTBOUND_REQUIRED, RegistrarParams
from polykemi.sip.header import NameAddr
from polykemi.sip.message import Request
from polykemi.sip.uri import parse_uri

TAG: Final = "outbound"


def uses_reg_id(request: Request, contacts: list[NameAddr] | None, params: RegistrarParams) -> bool:
    """Tell whether the reg-id of these contacts counts (section 6). Raise Rejected: 420, 421 or 439, and ParseError.

    Behind a first hop that does not support outbound it does not: there is no way to send over one flow alone.
    """
    mode = params.outbound_mode
    if mode == OUTBOUND_NONE:
        if supports(request, TAG, "require"):
            raise Rejected(420, "Bad Extension", "No support for Outbound on server", [f"Unsupported: {TAG}"])
        return True
    is_supported = supports(request, TAG)
    if mode == OUTBOUND_REQUIRED and not is_supported:
        more = [f"Require: {TAG}", f"Supported: {TAG}"]
        raise Rejected(421, "Extension Required", "No support for Outbound indicated", more)
    if params.regid_mode or not contacts or len(request.list("via")) < 2 or _is_first_hop_able(request):
        return True
    if is_supported and contacts[0].param("reg-id"):
        raise Rejected(439, "First Hop Lacks Outbound Support", "No support for Outbound on edge proxy")
    return False


def _is_first_hop_able(request: Request) -> bool:
    """Tell whether the topmost Path, which is the proxy's next to the phone or came through it, has ``ob`` (section 5.1)."""
    path = request.get("path")
    return bool(path) and parse_uri(first_uri(path or "")).param("ob") is not None


def headers_of_200(request: Request, params: RegistrarParams) -> list[str]:
    """Return what the 200 says about outbound; only for an ``outbound_mode`` of 1 or 2."""
    supported = f"Supported: {TAG}"
    is_used = params.outbound_mode == OUTBOUND_REQUIRED or supports(request, TAG) or supports(request, TAG, "require")
    if not is_used:
        return [supported]
    lines = (
        [f"Require: {TAG}", supported] if params.outbound_mode == OUTBOUND_REQUIRED else [supported, f"Require: {TAG}"]
    )
    return [*lines, f"Flow-Timer: {params.flow_timer}"] if params.flow_timer else lines
