"""For users' tests: a server without sockets and with a clock that jumps."""

from polykemi.testing.harness import Call, Sent, ServerUnderTest, Trace

__all__ = ["Call", "Sent", "ServerUnderTest", "Trace"]
