"""`python __main__.py [--file FILE]`: a receiver of webhooks that behaves as the path says.

    POST /NAME/MODE     a webhook; the modes are those of `behave`: ok, fail, flaky, bad, gone, stall ...
    PUT  /secret/NAME   the secret that requests for NAME are signed with
    GET  /seen/NAME     which ids came, how often, and how many requests were not rightly signed

Prints its URL when it listens; ends when its standard input does: with whoever started it. Each request is a
line of FILE before it is answered. Imports nothing of Onefold, so that it is a second opinion.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

HEAD_BYTES_MAX = 65_536
BODY_BYTES_MAX = 1_048_576


class Server:
    """What came, by the name of the endpoint. `note` writes a line of the file."""

    def __init__(self, note: Callable[[str], object]) -> None:
        self.secrets: dict[str, Webhook] = {}
        self.seen: dict[str, Counter[str]] = defaultdict(Counter)
        self.unsigned: Counter[str] = Counter()
        self.last: dict[str, object] = {}
        self.at_once: Counter[str] = Counter()
        self.at_once_most: Counter[str] = Counter()
        self.never = asyncio.Event()  # Held here: a task that only itself waits for would be collected.
        self._note = note

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                verb, path, _ = head[0].split(" ")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
                length = int(headers.get("content-length", 0))
                if length > BODY_BYTES_MAX:
                    return
                body = await reader.readexactly(length)
                _, name, mode = path.partition("?")[0].split("/")
                if not await self.answer(writer, f"{verb} {name}/{mode}", headers, body):
                    return
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
            pass
        finally:
            writer.close()

    async def answer(
        self, writer: asyncio.StreamWriter, asked: str, headers: dict[str, str], body: bytes
    ) -> bool:
        """Answer one request; False when the connection is to end."""
        verb, _, path = asked.partition(" ")
        name, _, mode = path.partition("/")
        if verb == "PUT":
            self.secrets[mode] = Webhook(body.decode())
            respond(writer, "204 No Content")
            return True
        if verb == "GET":
            told = {
                "ids": self.seen[mode], "unsigned": self.unsigned[mode], "last": self.last.get(mode),
                "at_once": self.at_once_most[mode],
            }  # fmt: skip
            respond(writer, "200 OK", json.dumps(told).encode())
            return True
        try:
            parsed = self.secrets[name].verify(body, headers)
        except (KeyError, WebhookVerificationError):
            self.unsigned[name] += 1
            self._note(json.dumps({"name": name, "id": None, "body": None}))
            respond(writer, "401 Unauthorized")
            return True
        message = headers["webhook-id"]
        self.seen[name][message] += 1
        self.last[name] = {"headers": headers, "body": parsed}
        self._note(json.dumps({"name": name, "id": message, "body": parsed}))
        self.at_once[name] += 1
        self.at_once_most[name] = max(self.at_once_most[name], self.at_once[name])
        try:
            return await self.behave(writer, name, mode, again=self.seen[name][message] > 1)
        finally:
            self.at_once[name] -= 1

    async def behave(self, writer: asyncio.StreamWriter, name: str, mode: str, *, again: bool) -> bool:
        """Answer a webhook for `name` as the mode says."""
        if mode == "ok" or (mode == "flaky" and again):
            respond(writer, "204 No Content")
        elif mode in {"fail", "flaky"}:
            respond(writer, "500 Internal Server Error", b"no luck today")
        elif mode == "bad":
            respond(writer, "400 Bad Request", b"I do not like it: \0\xff" + b"x" * 5_000)
        elif mode == "gone":
            respond(writer, "410 Gone")
        elif mode == "redirect":
            port = writer.get_extra_info("sockname")[1]
            respond(writer, f"302 Found\r\nLocation: http://127.0.0.1:{port}/{name}/ok")
        elif mode == "later":
            respond(writer, "429 Too Many Requests\r\nRetry-After: 7200")
        elif mode == "huge":  # Never ends.
            await _without_end(writer, b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65_536 + b"\r\n")
            return False
        elif mode == "heads":  # A head that never ends.
            await _without_end(writer, b"", b"x-more: " + b"x" * 60_000 + b"\r\n")
            return False
        elif mode == "slow":  # A body that begins and does not go on.
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
            await writer.drain()
            await self.never.wait()
        elif mode == "stall":
            await self.never.wait()
        else:
            respond(writer, "404 Not Found")
        return True


def respond(writer: asyncio.StreamWriter, status: str, body: bytes = b"") -> None:
    """A whole response."""
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


async def _without_end(writer: asyncio.StreamWriter, head: bytes, more: bytes) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n" + head)
    while not writer.is_closing():
        writer.write(more)
        await writer.drain()


async def main(file: Path | None) -> None:
    """Serve on loopback until standard input ends."""
    with contextlib.ExitStack() as stack:
        record = None if file is None else stack.enter_context(file.open("a", buffering=1, encoding="utf-8"))
        note: Callable[[str], object] = (lambda _: None) if record is None else (lambda line: record.write(line + "\n"))
        server = await asyncio.start_server(Server(note).serve, "127.0.0.1", 0, backlog=1_024, limit=HEAD_BYTES_MAX)
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A receiver of webhooks that behaves as the path says.")
    parser.add_argument("--file", type=Path, help="what came, one line each; without it only counted in memory")
    try:
        asyncio.run(main(parser.parse_args().file))
    except KeyboardInterrupt:
        sys.exit(0)
