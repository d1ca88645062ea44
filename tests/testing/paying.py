"""Payments as a scenario: a provider that keeps silent now and then, and workers that die while they ask it."""

from __future__ import annotations

from typing import Any

import msgspec
from payments_till import has_order, open_till, pay, ship
from scenarios import work

from onefold import Conflict, Money, Retry, Tx, Unknown, jobs, payments
from onefold.products.payments import Charge, NoAnswer, Settle
from onefold.testing.simulation import Client, Simulation


class Bank:
    """The world outside: it never dies, and remembers every charge by its key."""

    def __init__(self) -> None:
        self.kept: dict[str, Charge] = {}
        self.taken: list[str] = []  # Each time that it took money.

    def at(self, client: Client) -> Line:
        """How one client reaches it."""
        return Line(self, client)


class Line:
    """See `Provider`. One call in four gets no answer; half of these had their effect."""

    def __init__(self, bank: Bank, client: Client) -> None:
        self._bank = bank
        self._dice = client.random

    def authorise(self, key: str, amount: Money, *, capture: bool, reference: str, **_: Any) -> Charge:
        return self._answered(lambda: self._take(key, amount, reference, capture=capture))

    def capture(self, key: str, amount: Money, **_: Any) -> Charge:
        return self._answered(lambda: self._take(key, amount, self._bank.kept[key].reference, capture=True))

    def cancel(self, key: str, **_: Any) -> Charge:
        return self._answered(lambda: self._bank.kept.setdefault(key, Charge(key, "canceled", "EUR", 0)))

    def query(self, key: str, **_: Any) -> Charge | None:
        return self._answered(lambda: self._bank.kept.get(key))

    def _take(self, key: str, amount: Money, reference: str, *, capture: bool) -> Charge:
        charge = self._bank.kept.get(key)
        if charge is None or (capture and charge.state == "authorised"):
            taken = amount.minor if capture else 0
            charge = Charge(
                key, "captured" if capture else "authorised", amount.currency, amount.minor, taken, reference
            )
            self._bank.kept[key] = charge
            if capture:
                self._bank.taken.append(key.partition("~")[0])
        return charge

    def _answered(self, do: Any) -> Any:
        silent = self._dice.random()
        if silent < 0.125:
            raise NoAnswer
        answer = do()
        if silent < 0.25:
            raise NoAnswer
        return answer


def paid_once(sim: Simulation) -> None:
    """What the provider took is what the ledger says, and each payment has one order."""
    bank = Bank()
    sim.setup(open_till)

    def buyer(client: Client) -> None:
        for number in client.rounds(3):
            client.sleep_ms(client.random.randrange(5_000))
            name = f"{client.number}-{client.incarnation}-{number}"
            client.run(pay, f"pay_{name}", reference=f"order/{name}")

    def settler(client: Client) -> None:
        settle = payments.handlers({"fake": bank.at(client)}, on_paid=ship)[Settle]  # pyright: ignore[reportArgumentType]

        def do(attempt: jobs.Attempt) -> None:
            args = msgspec.json.decode(attempt.args, type=Settle)
            job = jobs.ThreadRun(attempt, args, composed=client, plain=client, keep_done_ms=0, timeout_ms=30_000)
            try:
                settle(job)
                if not job.finished:
                    job.finish()
            except jobs.Snooze as snoozed:
                try_to(client, jobs.snooze, attempt, after_ms=snoozed.after_ms)
            except (Conflict, Retry, Unknown):
                return  # Lost, or somebody rescues it.

        work(client, "payments.settle", do)

    def the_books_are_the_providers(tx: Tx) -> None:
        assert len(bank.taken) == len(set(bank.taken)), "charged twice"
        intents = {key: payments.intent_of(tx, key) for key in bank.kept if "~" not in key}
        settled = [bank.kept[key] for key, intent in intents.items() if intent.asked is None]
        assert payments.audit_charges(tx, "fake", settled).faults == []
        assert payments.audit_intents(tx, "fake").faults == []
        for key in bank.taken:
            if intents[key].asked is None:
                assert has_order(tx, intents[key]), f"{key} is paid, and nothing was shipped"

    sim.clients(buyer, 2)
    sim.background(settler, 2)
    sim.always(the_books_are_the_providers)


def try_to(client: Client, fn: Any, *args: Any, **kwargs: Any) -> None:
    """Run it; whoever is refused leaves it to the next attempt."""
    try:
        client.run(fn, *args, **kwargs)
    except (Conflict, Retry, Unknown):
        return
