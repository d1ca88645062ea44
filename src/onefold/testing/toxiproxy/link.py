"""One direction of one connection: read, befallen by toxics, written. Toxics come and go while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Callable, Sequence

from onefold.testing.toxiproxy.toxics import (
    Bandwidth,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Stream,
    Timeout,
    Toxic,
)

CHUNK_BYTES = 32_768
CHUNKS_MAX = 64  # Under way in one direction; the sender waits beyond it.
LOOK_S = 0.05  # A toxic that holds everything back is looked at anew this often.

Chunk = tuple[float, bytes]


class Connection:
    """Both directions, and how they end."""

    def __init__(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        toxics: Callable[[], Sequence[Toxic]],
        dice: random.Random,
    ) -> None:
        self._writers = (client[1], server[1])
        self._links = (
            Link(self, client[0], server[1], "upstream", toxics, dice),
            Link(self, server[0], client[1], "downstream", toxics, dice),
        )

    async def run(self) -> None:
        """Carry both ways until both have ended."""
        try:
            await asyncio.gather(*(link.run() for link in self._links), return_exceptions=True)
        finally:
            self.close()

    def refresh(self) -> None:
        """The toxics have changed."""
        for link in self._links:
            link.refresh()

    def close(self) -> None:
        """End both sides; what is not written yet is lost."""
        for link in self._links:
            link.stop()
        for writer in self._writers:
            with contextlib.suppress(OSError, RuntimeError):
                writer.transport.abort()

    def reset(self) -> None:
        """End both sides with RST."""
        for writer in self._writers:
            raw: socket.socket | None = writer.get_extra_info("socket")
            if raw is not None and raw.family != socket.AF_UNIX:
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


class Link:
    """From one side's reader to the other's writer."""

    def __init__(
        self,
        connection: Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        stream: Stream,
        toxics: Callable[[], Sequence[Toxic]],
        dice: random.Random,
    ) -> None:
        self._connection = connection
        self._reader = reader
        self._writer = writer
        self._stream = stream
        self._toxics = toxics
        self._dice = dice
        self._befallen: dict[str, tuple[float, bool]] = {}  # Drawn once for each toxic, and for each toxicity of it.
        self._passed: dict[str, int] = {}  # Bytes, since the toxic that counts them was added.
        self._chunks: asyncio.Queue[Chunk] = asyncio.Queue(CHUNKS_MAX)
        self._changed = asyncio.Event()
        self._timers: dict[Toxic, asyncio.TimerHandle] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Carry until the sender's side ends or the receiver's is gone."""
        self.refresh()
        self._tasks = [asyncio.ensure_future(self._read()), asyncio.ensure_future(self._write())]
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop(self) -> None:
        """Carry nothing more."""
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()

    def refresh(self) -> None:
        """Toxics came or went: start the clocks of those that end connections."""
        names = {toxic.name for toxic in self._toxics()}
        for gone in self._befallen.keys() - names:  # Another one of this name is drawn, and counts, anew.
            del self._befallen[gone]
            self._passed.pop(gone, None)
        present = self._present()
        for toxic in [toxic for toxic in self._timers if toxic not in present]:
            self._timers.pop(toxic).cancel()
        loop = asyncio.get_running_loop()
        for toxic in present:
            how = toxic.attributes
            if toxic in self._timers:
                continue
            if isinstance(how, ResetPeer):
                self._timers[toxic] = loop.call_later(how.timeout / 1_000, self._connection.reset)
            elif isinstance(how, Timeout) and how.timeout:
                self._timers[toxic] = loop.call_later(how.timeout / 1_000, self._connection.close)
        self._changed.set()
        self._changed = asyncio.Event()

    def _present(self) -> list[Toxic]:
        found: list[Toxic] = []
        for toxic in self._toxics():
            if toxic.stream != self._stream:
                continue
            drawn = self._befallen.get(toxic.name)
            if drawn is None or drawn[0] != toxic.toxicity:
                drawn = self._befallen[toxic.name] = toxic.toxicity, self._dice.random() < toxic.toxicity
            if drawn[1]:
                found.append(toxic)
        return found

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        data = b"begin"
        while data:
            try:
                data = await self._reader.read(CHUNK_BYTES)
            except ConnectionError:
                data = b""
            await self._chunks.put((loop.time(), data))

    async def _write(self) -> None:
        while True:
            arrived, data = await self._chunks.get()
            try:
                if not data:
                    await self._end()
                    return
                await self._deliver(arrived, data)
            except (ConnectionError, RuntimeError):
                self._connection.close()
                return

    async def _deliver(self, arrived: float, data: bytes) -> None:
        size, apart_s = len(data), 0.0
        for toxic in self._present():
            how = toxic.attributes
            if isinstance(how, Timeout):
                return
            if isinstance(how, Latency):
                due = arrived + (how.latency + self._dice.uniform(-how.jitter, how.jitter)) / 1_000
                await self._rest(due - asyncio.get_running_loop().time())
            elif isinstance(how, Bandwidth):
                await self._trickle(len(data))
            elif isinstance(how, Slicer):
                size = how.average_size + self._dice.randint(-how.size_variation, how.size_variation)
                apart_s = how.delay / 1_000_000
        for start in range(0, len(data), size):
            if start:
                await self._rest(apart_s)
            await self._pass_on(data[start : start + size])

    async def _trickle(self, count: int) -> None:
        """Wait as long as `count` bytes take at the rate there is, which may change meanwhile."""
        left = float(count)
        while left > 0:
            rates = [toxic.attributes.rate for toxic in self._present() if isinstance(toxic.attributes, Bandwidth)]
            rate = min(rates, default=None)
            if rate is None:
                return
            step_s = min(LOOK_S, left / (rate * 1_000)) if rate else LOOK_S
            await asyncio.sleep(step_s)
            left -= rate * 1_000 * step_s

    async def _pass_on(self, data: bytes) -> None:
        limits = {
            toxic.name: toxic.attributes.bytes - self._passed.get(toxic.name, 0)
            for toxic in self._present() if isinstance(toxic.attributes, LimitData)
        }  # fmt: skip
        left = min(limits.values(), default=None)
        if left is not None:
            data = data[: max(0, left)]
        for name in limits:
            self._passed[name] = self._passed.get(name, 0) + len(data)
        self._writer.write(data)
        await self._writer.drain()
        if left is not None and left <= len(data):
            self._writer.close()
            await self._writer.wait_closed()  # What was written goes out first.
            self._connection.close()

    async def _end(self) -> None:
        for toxic in self._present():
            if isinstance(toxic.attributes, SlowClose):
                await self._rest(toxic.attributes.delay / 1_000)
            elif isinstance(toxic.attributes, Timeout) and not toxic.attributes.timeout:
                await self._changed.wait()
        if self._writer.can_write_eof():
            self._writer.write_eof()

    async def _rest(self, seconds: float) -> None:
        if seconds > 0:
            await asyncio.sleep(seconds)
