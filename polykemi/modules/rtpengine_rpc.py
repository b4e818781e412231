"""rtpengine: what an operator asks and tells it about its relays (Kamailio: the RPC commands of rtpengine). Part of rtpengine."""

from __future__ import annotations

from typing import Any, Final

from polykemi.errors import DataError, RpcError
from polykemi.kemi.rpc import rpc
from polykemi.modules.rtpengine_nodes import Node, NodeSet
from polykemi.modules.rtpengine_relay import RtpengineRelay

_FAILED: Final = 500
_NOT_FOUND: Final = 404


class RtpengineCommands(RtpengineRelay):
    """The commands; what scripts call is in ``rtpengine``."""

    @rpc("rtpengine.show", (_FAILED, "Not enough parameters"))
    def show(self, url: str) -> list[dict[str, Any]]:
        """Show the relay with this URL in all of its sets, or all relays for ``all``."""
        return [
            {
                "url": node.url,
                "set": one.id,
                "index": node.index,
                "weight": node.weight,
                "disabled": "1(permanent)" if node.permanent else int(node.disabled),
                "recheck_ticks": "N/A" if node.permanent else max(0, int(node.recheck - self.seen)),
            }
            for one, node in self._named(url)
        ]

    @rpc("rtpengine.ping", (_FAILED, "Not enough parameters"))
    def ping(self, url: str) -> dict[str, str]:
        """Ping the relay with this URL, or all relays for ``all``; one that does not answer is disabled for a while."""
        well = True
        for _, node in self._named(url):
            if not self.nodes.ping(node):
                well = False
                self._disable(node)
        return {"url": url, "status": "success" if well else "fail"}

    @rpc("rtpengine.enable", (_FAILED, "Not enough parameters"))
    def enable(self, url: str, flag: int) -> dict[str, str]:
        """Enable (1) the relay with this URL, all for ``all``, if it answers a ping; or disable (0) it until it is enabled."""
        status = "enable" if flag else "disable"
        for _, node in self._named(url):
            if not flag:
                node.disabled = node.permanent = True
            elif self.nodes.ping(node):
                node.disabled, node.permanent, node.recheck = False, False, 0.0
            else:
                status = "fail"
                self._disable(node)
        return {"url": url, "status": status}

    @rpc("rtpengine.reload")
    def reload(self) -> str:
        """Read the table of relays anew."""
        if not self.params.db_url:
            raise RpcError(_FAILED, "No Database URL")
        try:
            self.read_table()
        except DataError as error:
            raise RpcError(_FAILED, f"Failed reloading db: {error}") from None
        for _, node in self.nodes:
            self.nodes.probe(node, self.seen)
        return "Ok. Reload successful."

    @rpc("rtpengine.get_hash_total")
    def get_hash_total(self) -> int:
        """Tell how many calls (and branches of calls) are known to be on a relay."""
        return len(self.on_relays)

    def _named(self, url: str) -> list[tuple[NodeSet, Node]]:
        found = [(one, node) for one, node in self.nodes if url.startswith("all") or node.url == url]
        if not found and not url.startswith("all"):
            raise RpcError(_NOT_FOUND, "Instance not found")
        return found

    def _disable(self, node: Node) -> None:
        node.permanent = False
        self.nodes.disable(node, self.seen)
