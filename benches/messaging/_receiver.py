"""A receiver of webhooks, as a process of its own that shares no code with the sender.

It verifies with the `standardwebhooks` library, and behaves as the path says: /NAME/ok, /NAME/fail, /NAME/stall ...
PUT /secret/NAME tells it a secret, GET /seen/NAME answers which ids came, how often, and what was not signed.
Prints its port when it listens; ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter, defaultdict

from standardwebhooks.webhooks import Webhook, WebhookVerificationError


class Receiver:
    def __init__(self) -> None:
        self.secrets: dict[str, Webhook] = {}
        self.seen: dict[str, Counter[str]] = defaultdict(Counter)
        self.unsigned: Counter[str] = Counter()
        self.last: dict[str, object] = {}
        self.at_once: Counter[str] = Counter()
        self.at_once_most: Counter[str] = Counter()
        self.never = asyncio.Event()  # Held here: a task that only itself waits for would be collected.

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                verb, path, _ = head[0].split(" ")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                _, name, mode = path.partition("?")[0].split("/")
                if not await self.answer(writer, verb, name, mode, headers, body):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, writer: asyncio.StreamWriter, verb: str, name: str, mode: str, headers: dict[str, str], body: bytes) -> bool:
        if verb == "PUT":
            self.secrets[mode] = Webhook(body.decode())
            respond(writer, "204 No Content")
            return True
        if verb == "GET":
            told = {"ids": self.seen[mode], "unsigned": self.unsigned[mode], "last": self.last.get(mode), "at_once": self.at_once_most[mode]}
            respond(writer, "200 OK", json.dumps(told).encode())
            return True
        try:
            parsed = self.secrets[name].verify(body, headers)
        except (KeyError, WebhookVerificationError):
            self.unsigned[name] += 1
            respond(writer, "401 Unauthorized")
            return True
        message = headers["webhook-id"]
        self.seen[name][message] += 1
        self.last[name] = {"headers": headers, "body": parsed}
        self.at_once[name] += 1
        self.at_once_most[name] = max(self.at_once_most[name], self.at_once[name])
        try:
            return await self.behave(writer, name, mode, message)
        finally:
            self.at_once[name] -= 1

    async def behave(self, writer: asyncio.StreamWriter, name: str, mode: str, message: str) -> bool:
        if mode == "ok" or (mode == "flaky" and self.seen[name][message] > 1):
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
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not writer.is_closing():
                writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
                await writer.drain()
            return False
        elif mode == "heads":  # A head that never ends.
            writer.write(b"HTTP/1.1 200 OK\r\n")
            while not writer.is_closing():
                writer.write(b"x-more: " + b"x" * 60_000 + b"\r\n")
                await writer.drain()
            return False
        elif mode == "slow":  # A body that begins and does not go on.
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
            await writer.drain()
            await self.never.wait()
        else:
            assert mode == "stall"
            await self.never.wait()
        return True


def respond(writer: asyncio.StreamWriter, status: str, body: bytes = b"") -> None:
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


async def main() -> None:
    server = await asyncio.start_server(Receiver().serve, "127.0.0.1", 0, backlog=1_024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(0)
