"""A relay on loopback that ends TLS on both sides and keeps every byte that a client sends."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from pathlib import Path

_PIECE = 1 << 16


class Recorder:
    """Stands between a SuperNode and its SuperLink, whose certificate it shows.

    Parameters
    ----------
    upstream : int
        Port of the SuperLink, on 127.0.0.1.
    authority, certificate, key : Path
        The authority that the SuperLink's certificate comes from, and that certificate and its key.
    """

    def __init__(self, upstream: int, authority: Path, certificate: Path, key: Path) -> None:
        self._upstream = upstream
        self._outward = ssl.create_default_context(cafile=str(authority))
        self._inward = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._inward.load_cert_chain(certificate, key)
        self._sent: list[bytearray] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def sent(self) -> list[bytes]:
        """What the client has sent so far, connection by connection."""
        return [bytes(one) for one in list(self._sent)]

    def stop(self) -> None:
        """Close everything."""

        async def close() -> None:
            self._server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._relay, "127.0.0.1", 0, ssl=self._inward)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard = bytearray()
        self._sent.append(heard)
        with contextlib.suppress(OSError, ssl.SSLError, asyncio.CancelledError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream, ssl=self._outward)
            both = [
                asyncio.ensure_future(_pump(reader, up_writer, heard)),
                asyncio.ensure_future(_pump(up_reader, writer, None)),
            ]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)  # either end closes both
            finally:
                for task in both:
                    task.cancel()
                up_writer.transport.abort()
        writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: bytearray | None) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while piece := await reader.read(_PIECE):
            if heard is not None:
                heard += piece
            writer.write(piece)
            await writer.drain()
