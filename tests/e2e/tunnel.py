"""TLS for phones that have none, as Debian's sipp: what comes on one side goes out on the other, one of them with TLS."""

from __future__ import annotations

import asyncio
import ssl
import threading
from contextlib import suppress


class Tunnel:
    """Takes connections on ``port`` (with TLS where ``takes`` is a context) and makes one to ``to`` for each (``makes``)."""

    def __init__(
        self, port: int, to: int, *, takes: ssl.SSLContext | None = None, makes: ssl.SSLContext | None = None
    ) -> None:
        self._port, self._to, self._takes, self._makes = port, to, takes, makes
        self._loop, ready = asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()

    def close(self) -> None:
        """End it and its connections."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        serving = asyncio.start_server(self._join, "127.0.0.1", self._port, ssl=self._takes)
        server = self._loop.run_until_complete(serving)
        ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # nobody is there, or no more
            other, into_other = await asyncio.open_connection("127.0.0.1", self._to, ssl=self._makes)
            try:
                await asyncio.gather(_copy(reader, into_other), _copy(other, writer))
            finally:
                into_other.transport.abort()
        writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
