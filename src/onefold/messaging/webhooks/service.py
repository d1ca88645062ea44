"""A running dispatcher: takes lanes, fetches what is due, sends it, and notes what came of it in batches.

One event loop. Whatever happens to this object, nothing is lost: a delivery stands in the database until the
transaction that logs its end, and the lane goes to another dispatcher when its lease is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections import Counter

import msgspec

from onefold.core.clock import SYSTEM
from onefold.core.errors import Denied, Invalid, NotFound, OnefoldError
from onefold.core.said import message_of
from onefold.engine.database import Database
from onefold.host.outgoing import Answer, Outgoing, Unreached
from onefold.messaging.webhooks.delivering import (
    NOTED_MAX,
    SURVEY_MAX,
    Item,
    Lane,
    Made,
    Seen,
    acquire,
    due,
    note,
    release,
    renew,
    survey,
)
from onefold.messaging.webhooks.keys import Keys
from onefold.messaging.webhooks.lanes import Held, Turns
from onefold.messaging.webhooks.records import DETAIL_LENGTH_MAX, Endpoint, Outcome
from onefold.messaging.webhooks.schedule import OVERLOADED, retry_after_ms
from onefold.messaging.webhooks.settings import Settings
from onefold.messaging.webhooks.signing import sign

_log = logging.getLogger("onefold.webhooks")

LANES_MAX = 1_000  # Of one dispatcher; with more endpoints that wait at once, take more dispatchers.
BUFFERED_MAX = 5_000  # Deliveries kept in memory, of at most 64 KiB each.
UNNOTED_MAX = 2_000  # Attempts made and not noted; with more, no new ones begin.
SURVEY_EVERY_S = 0.05  # While fetching goes on without.
RENEWALS_PER_LEASE = 3
PAUSE_S_FIRST, PAUSE_S_MAX = 0.05, 5.0
LAST_NOTE_S = 10.0  # How long `stop` tries to note what was made.
AGENT = "onefold-webhooks"


class Service:
    """What runs between a dispatcher's start and its stop."""

    def __init__(self, db: Database, keys: Keys, settings: Settings) -> None:
        self._db = db
        self._keys = keys
        self._settings = settings
        self._own = db.at("").options(isolation="read_committed")
        self._reader = db.at("").reader()
        self._owner = f"{socket.gethostname()[:60]}-{os.getpid()}-{secrets.token_hex(6)}"
        self._lanes: dict[str, Held] = {}
        self._turns = Turns(settings.concurrency)
        self._cursor = ""
        self._made: list[Made] = []
        self._flights: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._survey_at = 0.0
        self.counts: Counter[str] = Counter()

    # -- start and stop -----------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to deliver."""
        settings = self._settings
        self._out = Outgoing(settings.policy, timeout_ms=settings.timeout_ms, resolver=settings.resolver)
        self._loop = asyncio.get_running_loop()
        self._look = asyncio.Event()  # There may be something to fetch.
        self._ended = asyncio.Event()  # There is something to note.
        self._noted = asyncio.Event()  # All is noted.
        self._tasks = [
            asyncio.create_task(self._listen()), asyncio.create_task(self._keep()), asyncio.create_task(self._feed()),
        ]  # fmt: skip
        self._noter = asyncio.create_task(self._note_all())
        self._db.gauge_sources.append(self.numbers)

    async def stop(self) -> None:
        """Begin no more, let what flies end for up to `drain_ms`, note it, and give the lanes back."""
        self._stopping = True
        listener, keeper, feeder = self._tasks
        for task in (listener, feeder):
            task.cancel()
        await asyncio.gather(listener, feeder, return_exceptions=True)
        if self._flights:
            await asyncio.wait(self._flights, timeout=self._settings.drain_ms / 1_000)
        for flight in tuple(self._flights):  # As if the process had died: made again by whoever comes.
            flight.cancel()
        await asyncio.gather(*self._flights, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_NOTE_S):
                while self._made:
                    self._noted.clear()
                    self._ended.set()
                    await self._noted.wait()
        for task in (self._noter, keeper):
            task.cancel()
        await asyncio.gather(self._noter, keeper, return_exceptions=True)
        await self._release(list(self._lanes.values()))
        await self._out.close()
        if self.numbers in self._db.gauge_sources:
            self._db.gauge_sources.remove(self.numbers)

    def numbers(self) -> dict[str, float]:
        """What the dispatcher did and does. What it did counts from its commit on."""
        found = {f"webhooks.{name}": float(count) for name, count in self.counts.items()}
        broken = sum(held.broken for held in self._lanes.values())
        return {
            **found, "webhooks.flying": float(self._turns.flying), "webhooks.unnoted": float(len(self._made)),
            "webhooks.lanes": float(len(self._lanes)), "webhooks.lanes_broken": float(broken),
        }  # fmt: skip

    # -- lanes --------------------------------------------------------------------------------

    async def _listen(self) -> None:
        waiter = self._db.waiter("webhooks")
        try:
            while True:
                if await waiter.await_(self._settings.poll_ms / 1_000):
                    self._look.set()
        finally:
            waiter.close()

    async def _keep(self) -> None:
        """Renew the leases. The time of a lease counts from before its renewal is asked for."""
        lease_s = self._settings.lease_ms / 1_000
        while True:
            await asyncio.sleep(lease_s / RENEWALS_PER_LEASE)
            began, before = time.monotonic(), dict(self._lanes)
            if not before:
                continue
            try:
                mine = await self._own.arun(renew, self._owner, lease_ms=self._settings.lease_ms)
            except OnefoldError as error:
                _log.warning("leases were not renewed; again soon", exc_info=error)
                continue
            for endpoint_id, held in before.items():
                if endpoint_id in mine:
                    held.until = began + lease_s
                    self._turns.add(held)
                else:
                    self._lost(held)
            self._pump()

    def _lost(self, held: Held) -> None:
        """Somebody else delivers there, or nobody should."""
        self._turns.drop(held)
        held.forget_waiting()
        held.until = 0.0
        if self._lanes.get(held.lane.endpoint_id) is held:
            del self._lanes[held.lane.endpoint_id]

    async def _release(self, many: list[Held]) -> None:
        for held in many:
            self._lost(held)
        try:
            if many:
                await self._own.arun(release, [held.lane for held in many])
        except OnefoldError as error:
            _log.info("the leases of %d lanes lapse by themselves: %s", len(many), error)

    # -- fetching -----------------------------------------------------------------------------

    async def _feed(self) -> None:
        pause_s = PAUSE_S_FIRST
        while not self._stopping:
            self._look.clear()
            try:
                rest_s = await self._fetch_once()
            except Exception as error:
                level = logging.WARNING if isinstance(error, OnefoldError) else logging.ERROR
                _log.log(level, "fetching failed; again in %.2f s", pause_s, exc_info=error)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, PAUSE_S_MAX)
                continue
            pause_s = PAUSE_S_FIRST
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await self._look.wait()

    async def _fetch_once(self) -> float:
        """Fetch for lanes that want it; answer how long to rest."""
        now = time.monotonic()
        hungry = [held for held in self._lanes.values() if held.more and held.wants(now)]
        rest_s = max(0.0, self._survey_at - now)
        if not hungry or rest_s == 0.0:
            rest_s, seen = await self._survey()
            hungry = list({id(held): held for held in (*hungry, *seen)}.values())
            self._survey_at = time.monotonic() + min(SURVEY_EVERY_S, rest_s)
        await self._fetch(hungry)
        idle = [held for held in self._lanes.values() if held.idle(time.monotonic())]
        if idle:
            await self._release(idle)
        return rest_s

    async def _survey(self) -> tuple[float, list[Held]]:
        """See which endpoints have something due, and take those that are free."""
        began = time.monotonic()
        now_ms, seen = await self._reader.arun(survey, self._cursor)
        full = len(seen) == SURVEY_MAX
        self._cursor = seen[-1].endpoint_id if full else ""
        rest_s = 0.0 if full else self._settings.poll_ms / 1_000
        free: list[str] = []
        wanting: list[Held] = []
        for one in seen:
            if one.at_ms > now_ms:
                rest_s = min(rest_s, max(0.01, (one.at_ms - now_ms) / 1_000)) if one.enabled else rest_s
            elif (held := self._lanes.get(one.endpoint_id)) is not None:
                wanting.append(held)
            elif one.enabled and self._is_free(one):
                free.append(one.endpoint_id)
        room = LANES_MAX - len(self._lanes)
        if free and room > 0:
            lease_ms = self._settings.lease_ms
            for lane in await self._own.arun(acquire, self._owner, free[:room], lease_ms=lease_ms):
                held = self._lanes[lane.endpoint_id] = Held(lane, until=began + lease_ms / 1_000)
                wanting.append(held)
        return rest_s, [held for held in wanting if held.wants(began)]

    def _is_free(self, one: Seen) -> bool:
        return one.lease_ms <= 0 or one.owner == self._owner

    async def _fetch(self, hungry: list[Held]) -> None:
        room = BUFFERED_MAX - sum(len(held.waiting) for held in self._lanes.values())
        wanted: list[tuple[Held, int, set[str]]] = []
        for held in hungry:
            asked = min(held.ahead, room)
            if asked > 0:
                room -= asked
                wanted.append((held, len(held.known) + asked, set(held.known)))
        if not wanted:
            return
        now_ms, found = await self._reader.arun(due, [(held.lane, asked) for held, asked, _ in wanted])
        gone: list[Held] = []
        for (held, asked, known), (endpoint, items) in zip(wanted, found, strict=True):
            if self._lanes.get(held.lane.endpoint_id) is not held:
                continue
            if endpoint is None:
                gone.append(held)
                continue
            held.fill(endpoint, self._secrets_of(endpoint, now_ms), items, known_before=known, asked=asked)
            self._turns.add(held)
        self._pump()
        await self._release(gone)

    def _secrets_of(self, endpoint: Endpoint, now_ms: int) -> list[str]:
        try:
            return self._keys.secrets_of(endpoint, now_ms=now_ms)
        except NotFound as error:
            _log.error("nothing can be signed for %s: %s", endpoint.id, error)  # noqa: TRY400  No trace needed.
            return []

    # -- sending ------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Begin what may begin."""
        now = time.monotonic()
        while not self._stopping and len(self._made) < UNNOTED_MAX and (held := self._turns.next(now)) is not None:
            assert held.endpoint is not None
            item = held.begin(now)
            self._turns.flying += 1
            self._turns.flying_broken += held.broken
            flight = self._loop.create_task(self._fly(held, held.endpoint, item, broken=held.broken))
            self._flights.add(flight)
            flight.add_done_callback(self._flights.discard)
            self._turns.add(held)
            if held.more and held.wants(now):
                self._look.set()
            if held.next_at > now:
                self._loop.call_at(self._loop.time() + held.next_at - now, self._resume, held)

    def _resume(self, held: Held) -> None:
        self._turns.add(held)
        self._look.set()
        self._pump()

    async def _fly(self, held: Held, endpoint: Endpoint, item: Item, *, broken: bool) -> None:
        """One attempt from its start until it waits to be noted."""
        began = time.monotonic()
        made: Made | None = None
        try:
            made = await self._attempt(held.lane, endpoint, held.secrets, item)
        finally:
            now = time.monotonic()
            self._turns.flying -= 1
            self._turns.flying_broken -= broken
            if made is not None:
                asked_s = made.retry_after_ms / 1_000
                held.ended(now, overloaded=made.status is None or made.status in OVERLOADED, retry_after_s=asked_s)
                self._made.append(msgspec.structs.replace(made, took_ms=int((now - began) * 1_000)))
                self._ended.set()
                if held.paused_until > now:
                    self._loop.call_at(self._loop.time() + held.paused_until - now, self._resume, held)
            self._turns.add(held)
            self._pump()

    async def _attempt(self, lane: Lane, endpoint: Endpoint, signers: list[str], item: Item) -> Made:
        def ended(outcome: Outcome, detail: str, *, final: bool = False) -> Made:
            return Made(lane, item, outcome, None, 0, detail, final=final)

        if item.body is None:
            return ended("denied", "The message is over its retention.", final=True)
        if not signers:
            return ended("denied", "The key file lacks the endpoint's key.")
        body = item.body.encode()
        signed = sign(item.message_id, SYSTEM.now_ms() // 1_000, body, signers)
        headers = {**endpoint.headers, **signed, "Content-Type": "application/json", "User-Agent": AGENT}
        try:
            answer = await self._out.post(endpoint.url, body, headers)
        except (Denied, Invalid) as error:
            return ended("denied", str(error))
        except Unreached as error:
            return ended("unreached", str(error))
        except Exception as error:
            _log.exception("an attempt ended in an error of our own")
            return ended("unreached", message_of(error))
        return _judged(lane, item, answer)

    # -- noting -------------------------------------------------------------------------------

    async def _note_all(self) -> None:
        pause_s = PAUSE_S_FIRST
        while True:
            await self._ended.wait()
            self._ended.clear()
            while self._made:
                batch = self._made[:NOTED_MAX]
                try:
                    lost = await self._own.arun(note, batch)
                except Exception as error:
                    level = logging.WARNING if isinstance(error, OnefoldError) else logging.ERROR
                    _log.log(level, "noting failed; again in %.2f s", pause_s, exc_info=error)
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, PAUSE_S_MAX)
                    continue
                pause_s = PAUSE_S_FIRST
                del self._made[: len(batch)]
                self._were_noted(batch, lost)
            self._noted.set()

    def _were_noted(self, batch: list[Made], lost: set[str]) -> None:
        for one in batch:
            held = self._lanes.get(one.lane.endpoint_id)
            same = held is not None and held.lane.token == one.lane.token
            if same and held is not None and one.lane.endpoint_id in lost:
                self._lost(held)
            elif same and held is not None:
                held.known.discard(one.item.message_id)
                if held.more:
                    self._look.set()
            self.counts["lost" if one.lane.endpoint_id in lost else one.outcome] += 1
        self._pump()


def _judged(lane: Lane, item: Item, answer: Answer) -> Made:
    good = 200 <= answer.status < 300
    asked_ms = 0 if good else retry_after_ms(answer.headers.get("Retry-After"), now_ms=SYSTEM.now_ms())
    detail = answer.body[: DETAIL_LENGTH_MAX * 4].decode("utf-8", "replace")[:DETAIL_LENGTH_MAX]
    return Made(lane, item, "delivered" if good else "refused", answer.status, 0, detail, asked_ms)
