"""What works between the transactions: the handlers that call a provider, and the sweep.

tx1 has recorded the intent and put the job. The handler reads what is to be asked, calls outside of any
transaction, and applies the answer together with the end of the job. Dying anywhere in between is a call
without an answer: the next attempt asks by `query` first, and repeats a call only under the same key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from onefold.core.errors import Invalid
from onefold.core.loop import Loop
from onefold.engine.tx import Tx
from onefold.messaging import jobs
from onefold.products.payments.callbacks import sweep
from onefold.products.payments.provider import Charge, NoAnswer, Provider
from onefold.products.payments.records import ANSWER_TIMEOUT_MS_MAX, Intent, Settle, SettleRefund
from onefold.products.payments.settling import (
    OnPaid,
    RefundStep,
    next_refund,
    next_step,
    observe,
    refund_unanswered,
    unanswered,
)

# Rarer: callbacks past their time take room longer. More often: more small transactions for nothing.
LOOPS = (Loop("payments.sweep", sweep, every_ms=600_000),)


def handlers(
    providers: Mapping[str, Provider], *, on_paid: OnPaid, answer_timeout_ms: int = 10_000
) -> dict[type[Any], Callable[[jobs.ThreadRun[Any]], None]]:
    """The handlers of payments' jobs: `jobs.Worker(db, io={**payments.handlers(...), **mine})`.

    Args:
        providers: by the names that intents carry.
        on_paid: `on_paid(tx, intent)` writes all that belongs to a payment; see `observe`.
        answer_timeout_ms: how long to wait for one answer, 1 to 60,000. More: a silent provider holds more
            of the worker's threads. Less: more results are unknown, and asked for again.

    Raises:
        Invalid: `answer_timeout_ms` is out of range.
    """
    if not 1 <= answer_timeout_ms <= ANSWER_TIMEOUT_MS_MAX:
        raise Invalid("answer_timeout_ms is out of range.", value=answer_timeout_ms, most=ANSWER_TIMEOUT_MS_MAX)
    settler = _Settler(providers, on_paid, answer_timeout_ms / 1_000)
    return {Settle: settler.settle, SettleRefund: settler.refund}


class _Settler:
    def __init__(self, providers: Mapping[str, Provider], on_paid: OnPaid, timeout_s: float) -> None:
        self._providers = providers
        self._on_paid = on_paid
        self._timeout_s = timeout_s

    def settle(self, job: jobs.ThreadRun[Settle]) -> None:
        """Ask what the intent's row says is to be asked, and apply the answer."""
        step = job.run(next_step, job.args.intent, look=job.args.look)
        if step is None:
            return
        provider = self._provider(step.intent.provider)
        # An attempt before this one may have called and died.
        asked_before = step.asked_before or job.attempt > 1 or job.args.look
        try:
            charge = self._ask(provider, step.intent, asked_before=asked_before)
        except NoAnswer:
            raise _again(job.run(unanswered, step.intent.id, since_ms=job.put_at_ms)) from None
        if charge is not None:
            job.finish(observe, step.intent.provider, charge, on_paid=self._on_paid)

    def refund(self, job: jobs.ThreadRun[SettleRefund]) -> None:
        """Ask for the refund, and apply the answer."""
        step = job.run(next_refund, job.args.refund)
        if step is None:
            return
        provider = self._provider(step.intent.provider)
        try:
            charge = self._ask_refund(provider, step, asked_before=step.asked_before or job.attempt > 1)
        except NoAnswer:
            raise _again(job.run(refund_unanswered, step.refund.id)) from None
        settled = job.run(_observe_refund, step, charge)
        if not settled:
            raise _again(job.run(refund_unanswered, step.refund.id))

    def _ask(self, provider: Provider, intent: Intent, *, asked_before: bool) -> Charge | None:
        key, timeout_s = intent.id, self._timeout_s
        if asked_before:
            charge = provider.query(key, timeout_s=timeout_s)
            if charge is not None and (intent.asked in {None, "authorise"} or charge.state != "authorised"):
                return charge
        if intent.asked == "authorise":
            return provider.authorise(
                key, intent.amount, method=intent.method, capture=intent.automatic, reference=intent.reference,
                timeout_s=timeout_s,
            )  # fmt: skip
        if intent.asked == "capture":
            return provider.capture(key, intent.to_capture, timeout_s=timeout_s)
        if intent.asked == "cancel":
            return provider.cancel(key, timeout_s=timeout_s)
        return None

    def _ask_refund(self, provider: Provider, step: RefundStep, *, asked_before: bool) -> Charge:
        key, refund = step.intent.id, step.refund
        if asked_before:
            charge = provider.query(key, timeout_s=self._timeout_s)
            if charge is not None and any(known.id == refund.id for known in charge.refunds):
                return charge
        return provider.refund(key, refund.id, refund.amount, timeout_s=self._timeout_s)

    def _provider(self, name: str) -> Provider:
        found = self._providers.get(name)
        if found is None:
            raise Invalid("The worker knows no provider of this name.", code="provider", name=name)
        return found


def _observe_refund(tx: Tx, step: RefundStep, charge: Charge) -> bool:
    """Apply the answer; False while the provider itself is still at it."""
    observe(tx, step.intent.provider, charge)
    return next_refund(tx, step.refund.id) is None


def _again(after_ms: int | None) -> Exception:
    if after_ms is None:
        return jobs.Cancel("the provider has not answered for 30 days")
    return jobs.Snooze(after_ms=max(1, after_ms))
