"""One buyer: what people do to a ticket shop, and what this one was told."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from examples.boxoffice.crowd.http import Answer, Connection, Lost
from examples.boxoffice.crowd.tally import Tally

SEATS_MAX = 6
SHOWS_TRIED_MAX = 4
HOLDS_TRIED_MAX = 12
PATIENCE_S = 120.0  # For one answer, through restarts of the server.
ABANDONED_TTL_MS = 5_000

_AGAIN = {"in_flight", "retry"}


class Told(msgspec.Struct, frozen=True):
    """An order that a buyer has in hand."""

    order: str
    hold: str
    key: str
    by: str
    show: str
    seats: list[tuple[int, int]]
    price_minor: int


class Habits(msgspec.Struct, frozen=True):
    """What this buyer is like; drawn from the seed, so that a run can be repeated."""

    party: int
    reads_the_map: bool
    picks: bool
    abandons: bool
    changes_mind: bool
    clicks_twice: bool
    hangs_up: bool


class GaveUp(Exception):  # noqa: N818  The buyer's decision, not an error.
    """No answer within `PATIENCE_S`."""


class Buyer:
    """Goes to one of the shows and comes home with tickets, or does not."""

    def __init__(self, name: str, base: str, shows: Sequence[str], tally: Tally, dice: random.Random) -> None:
        self.name = name
        self._dice = dice
        self._tally = tally
        self._line = Connection(base)
        self._second = Connection(base)
        self._shows = dice.sample(list(shows), min(SHOWS_TRIED_MAX, len(shows)))
        self._holds = 0
        self._token = ""
        self._by = ""
        self.habits = Habits(
            party=dice.randint(1, SEATS_MAX), reads_the_map=dice.random() < 0.15, picks=dice.random() < 0.25,
            abandons=dice.random() < 0.08, changes_mind=dice.random() < 0.08, clicks_twice=dice.random() < 0.08,
            hangs_up=dice.random() < 0.05,
        )  # fmt: skip

    async def go(self) -> Told | None:
        """Buy; None for whoever goes home without tickets."""
        try:
            visitor = (await self._ask("visitor", "POST", "/api/visitors")).json()
            self._token, self._by = visitor["token"], visitor["visitor"]
            if self.habits.changes_mind and (hold := await self._hold()):
                await self._ask("release", "DELETE", f"/api/holds/{hold['id']}")
                self._tally.count("changed their mind")
            for _ in range(3):  # A hold may lapse while the server is away; then choose again.
                hold = await self._hold()
                if hold is None:
                    self._tally.count("went home: sold out")
                    return None
                if self.habits.abandons:
                    self._tally.count("left seats to lapse")
                    return None
                told = await self._buy(hold)
                if told is not None:
                    self._tally.count("bought")
                    return told
            self._tally.count("went home: too slow")
        except GaveUp:
            self._tally.count("gave up waiting")
        finally:
            self._line.close()
            self._second.close()
        return None

    async def _hold(self) -> dict[str, Any] | None:
        party = self.habits.party
        picks = self.habits.picks
        shows = list(self._shows)
        for _ in range(HOLDS_TRIED_MAX):
            wish: dict[str, Any] | None = {"count": party}
            if picks or self.habits.reads_the_map:
                wish = await self._choose(shows[0], party) if picks else (await self._look(shows[0]) and wish) or wish
            if wish is None:
                picks, wish = False, {"count": party}
            if self.habits.abandons:
                wish["ttl_ms"] = ABANDONED_TTL_MS
            self._holds += 1
            answer = await self._ask(
                "hold", "POST", f"/api/performances/{shows[0]}/holds", wish, key=f"{self.name}-hold-{self._holds}"
            )
            if answer.status == 201:
                found: dict[str, Any] = answer.json()
                return found
            if answer.code == "seats_taken":
                picks = False
            elif answer.code == "no_seats" and party > 1 and len(shows) == 1:
                party //= 2
            elif answer.code == "no_seats" and len(shows) > 1:
                shows.pop(0)
            elif answer.code == "no_seats":
                return None
            else:
                self._tally.surprise("hold", answer)
                return None
        return None

    async def _look(self, show: str) -> dict[str, str]:
        rows: dict[str, str] = (await self._ask("map", "GET", f"/api/performances/{show}/seats")).json()["rows"]
        return rows

    async def _choose(self, show: str, party: int) -> dict[str, Any] | None:
        """Adjacent free seats somewhere, as a person would click them: by then they may be gone."""
        rows = list((await self._look(show)).items())
        self._dice.shuffle(rows)
        for row, seats in rows:
            at = seats.find("0" * party)
            if at >= 0:
                return {"row": int(row), "seats": list(range(at + 1, at + 1 + party))}
        return None

    async def _buy(self, hold: dict[str, Any]) -> Told | None:
        key = f"{self.name}-buy-{self._holds}"
        wanted = {"hold": hold["id"]}
        if self.habits.hangs_up:
            try:
                await self._line.ask("POST", "/api/orders", wanted, token=self._token, key=key, unheard=True)
            except Lost:
                self._tally.count("hung up and asked again")
        if self.habits.clicks_twice:
            self._tally.count("clicked twice")
            answers = await asyncio.gather(
                self._ask("buy", "POST", "/api/orders", wanted, key=key),
                self._ask("buy", "POST", "/api/orders", wanted, key=key, line=self._second),
            )
            orders = {answer.json()["id"] for answer in answers if answer.status == 201}
            if len(orders) > 1:
                self._tally.doubled.append(f"key {key} gave two orders: {sorted(orders)}")
            answer = next((answer for answer in answers if answer.status == 201), answers[0])
        else:
            answer = await self._ask("buy", "POST", "/api/orders", wanted, key=key)
        if answer.status == 201:
            return self._told(key, answer.json())
        if answer.code not in {"hold_lapsed", "hold_gone"}:
            self._tally.surprise("buy", answer)
        return None

    def _told(self, key: str, order: dict[str, Any]) -> Told:
        seats = [(block["row"], seat) for block in order["blocks"] for seat in block["seats"]]
        return Told(
            order=order["id"], hold=order["hold_id"], key=key, by=self._by, show=order["show_id"], seats=seats,
            price_minor=order["price"]["minor"],
        )  # fmt: skip

    async def _ask(
        self, step: str, verb: str, path: str, body: object = None, *, key: str = "", line: Connection | None = None
    ) -> Answer:
        """Ask until there is an answer that is one: the same request, under the same key."""
        give_up = time.monotonic() + PATIENCE_S
        rest_s = 0.02
        while True:
            started = time.perf_counter()
            try:
                answer = await (line or self._line).ask(verb, path, body, token=self._token, key=key)
            except Lost:
                self._tally.count("connections lost")
            else:
                self._tally.took(step, time.perf_counter() - started)
                if answer.status < 500 and answer.code not in _AGAIN:
                    return answer
                if answer.status == 500:
                    self._tally.surprise(step, answer)
                self._tally.count(f"asked again: {answer.status} {answer.code}")
            if time.monotonic() > give_up:
                raise GaveUp
            await asyncio.sleep(rest_s * (0.5 + self._dice.random()))
            rest_s = min(rest_s * 2, 1.0)
