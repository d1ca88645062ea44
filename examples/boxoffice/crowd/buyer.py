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
CARDS_TRIED_MAX = 2  # Declined twice, people take the wallet.
CARD = "tok_visa"
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
    pays_by_card: bool
    impatient: bool


class GaveUp(Exception):  # noqa: N818  The buyer's decision, not an error.
    """No answer within `PATIENCE_S`."""


class Buyer:
    """Goes to one of the shows and comes home with tickets, or does not."""

    def __init__(
        self, name: str, base: str, shows: Sequence[str], tally: Tally, dice: random.Random, *, cards: float
    ) -> None:
        self.name = name
        self._dice = dice
        self._tally = tally
        self._line = Connection(base)
        self._second = Connection(base)
        self._shows = dice.sample(list(shows), min(SHOWS_TRIED_MAX, len(shows)))
        self._holds = 0
        self._gave_back = False
        self._token = ""
        self._by = ""
        self.habits = Habits(
            party=dice.randint(1, SEATS_MAX), reads_the_map=dice.random() < 0.15, picks=dice.random() < 0.25,
            abandons=dice.random() < 0.08, changes_mind=dice.random() < 0.08, clicks_twice=dice.random() < 0.08,
            hangs_up=dice.random() < 0.05, pays_by_card=dice.random() < cards, impatient=dice.random() < 0.1,
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
        for number in range(CARDS_TRIED_MAX + 1):
            key = f"{self.name}-buy-{self._holds}-{number}"
            by_card = self.habits.pays_by_card and number < CARDS_TRIED_MAX
            answer = await self._press(key, {"hold": hold["id"], **({"card": CARD} if by_card else {})})
            if answer.status == 201:
                return self._told(key, answer.json())
            if answer.status != 202:
                if answer.code not in {"hold_lapsed", "hold_gone"}:
                    self._tally.surprise("buy", answer)
                return None
            paying = await self._wait_for_the_bank(answer.json()["payment"], hold["id"])
            if paying["state"] == "paid":
                order = await self._ask("order", "GET", f"/api/orders/{paying['order']}")
                return self._told(key, order.json()["order"])
            if paying["state"] != "declined":
                return None
            self._tally.count("card declined")
        return None

    async def _press(self, key: str, wanted: dict[str, str]) -> Answer:
        """Press the button, as people do: once, twice, or without waiting for what it says."""
        if self.habits.hangs_up:
            try:
                await self._line.ask("POST", "/api/orders", wanted, token=self._token, key=key, unheard=True)
            except Lost:
                self._tally.count("hung up and asked again")
        if not self.habits.clicks_twice:
            return await self._ask("buy", "POST", "/api/orders", wanted, key=key)
        self._tally.count("clicked twice")
        answers = await asyncio.gather(
            self._ask("buy", "POST", "/api/orders", wanted, key=key),
            self._ask("buy", "POST", "/api/orders", wanted, key=key, line=self._second),
        )
        heard = [answer for answer in answers if answer.status in {201, 202}]
        if len({answer.body for answer in heard}) > 1:
            self._tally.doubled.append(f"key {key} was answered in two ways: {[answer.body for answer in heard]}")
        return heard[0] if heard else answers[0]

    async def _wait_for_the_bank(self, payment: str, hold: str) -> dict[str, Any]:
        """Look until the payment is decided; the impatient give the seats back while it is not."""
        give_up = time.monotonic() + PATIENCE_S
        rest_s = 0.05
        while True:
            found: dict[str, Any] = (await self._ask("payment", "GET", f"/api/payments/{payment}")).json()
            if found["state"] != "paying":
                return found
            if self.habits.impatient and not self._gave_back:
                self._gave_back = True
                answer = await self._ask("release", "DELETE", f"/api/holds/{hold}")
                if answer.status == 204:
                    self._tally.count("gave the seats back while paying")
                    return {"state": "canceled"}
                if answer.code not in {"intent_state", "hold_gone"}:
                    self._tally.surprise("release", answer)
            if time.monotonic() > give_up:
                raise GaveUp
            await asyncio.sleep(rest_s * (0.5 + self._dice.random()))
            rest_s = min(rest_s * 1.5, 1.0)

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
