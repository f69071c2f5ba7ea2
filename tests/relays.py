"""A relay between a client and a service, which can stand still or hold connections open without an answer."""

import asyncio


class Relay:
    """Passes a connection's bytes on to the service's present port, and keeps them while `moving` is not set."""

    def __init__(self) -> None:
        self.target: int | None = None  # a port; None: connections are taken and never answered
        self.moving = asyncio.Event()
        self.moving.set()
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()
        self.port = 0

    async def listen(self) -> None:
        """Take connections, on the same port as before; nothing happens if the relay does already."""
        if self._server is not None:
            return
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Nothing listens any more, and every connection ends."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.drop()

    def drop(self) -> None:
        """End every connection."""
        for task in self._running:
            task.cancel()

    async def end(self) -> None:
        """Close, and wait until nothing runs."""
        running = list(self._running)
        await self.close()
        await asyncio.gather(*running, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            if self.target is None:  # a black hole, until `drop`
                await asyncio.Event().wait()
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            ways = set[asyncio.Task[None]]()
            try:
                ways = {asyncio.create_task(self._pass(reader, back)), asyncio.create_task(self._pass(there, writer))}
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                back.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass  # the service has ended, or `drop`
        finally:
            self._running.discard(task)
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                await self.moving.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            return
