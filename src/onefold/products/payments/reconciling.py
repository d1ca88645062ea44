"""The whole audit, between transactions: it reads the provider's record page by page, and compares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec

from onefold.engine.database import Handle
from onefold.engine.tx import Tx
from onefold.products import ledger
from onefold.products.payments import auditing
from onefold.products.payments.auditing import IntentAudit, IntentFault
from onefold.products.payments.ops import intent_of
from onefold.products.payments.provider import Charge, Provider
from onefold.products.payments.records import Intent, accounts_of

PAGE = 500
FAULTS_MAX = 1_000  # Kept; beyond them only `faulty` counts.


class Report(msgspec.Struct):
    """What the audit counted.

    Attributes:
        charges: in the provider's record.
        intents: here.
        open: intents that still wait for the provider.
        late: payments that came late and were, or are being, refunded by themselves.
        late_minor: how much, by currency.
        theirs: what the provider has taken less what went back, by currency.
        ours: the same by the intents.
        owed: the same by the ledger's clearing accounts.
        unclaimed: what came late and has not gone back yet.
        doubled: references for which the buyer paid more than once, and still does.
        without_order: intents that are paid, and that `has_order` does not know.
        faulty: how many faults there are; the first thousand are in `faults`.
    """

    charges: int = 0
    intents: int = 0
    open: int = 0
    late: int = 0
    late_minor: dict[str, int] = {}
    theirs: dict[str, int] = {}
    ours: dict[str, int] = {}
    owed: dict[str, int] = {}
    unclaimed: dict[str, int] = {}
    doubled: list[str] = []
    without_order: list[str] = []
    faulty: int = 0
    faults: list[IntentFault] = []

    @property
    def passed(self) -> bool:
        """Whether all three agree to the cent, and nobody paid twice or for nothing."""
        agree = self.theirs == self.ours == self.owed and not any(self.unclaimed.values())
        return agree and not (self.open or self.faulty or self.doubled or self.without_order)


def audit(
    db: Handle, name: str, provider: Provider, *, has_order: Callable[[Tx, Intent], bool], timeout_s: float = 10.0
) -> Report:
    """Compare the provider's record, the intents and the ledger of one space.

    Run it when nothing is under way: it reads page by page, not one moment. It remembers each reference
    that was paid, and is meant for up to some millions of charges.

    Args:
        db: the space, read only: `db.at(...).reader()`.
        name: what intents call the provider.
        provider: whose record is read.
        has_order: whether what was paid for is there; called in a transaction.
        timeout_s: for each page of the provider's record.

    Raises:
        NoAnswer: the provider kept silent.
    """
    report = Report()
    paid: Counter[str] = Counter()
    after: str | None = None
    while charges := provider.charges(after=after, timeout_s=timeout_s):
        for first in range(0, len(charges), PAGE):
            part = charges[first : first + PAGE]
            _add(report, report.theirs, db.run(auditing.audit_charges, name, part))
            report.charges += len(part)
            report.without_order += db.run(_without_order, part, has_order)
        paid.update(charge.reference for charge in charges if charge.reference and _is_paid(charge))
        after = charges[-1].key
    report.doubled = sorted(reference for reference, times in paid.items() if times > 1)
    after = None
    while True:
        page = db.run(auditing.audit_intents, name, after=after, limit=PAGE)
        _add(report, report.ours, page)
        report.intents += page.checked
        after = page.after
        if after is None:
            break
    for currency in report.theirs.keys() | report.ours.keys():
        clearing, unclaimed, _ = accounts_of(name, currency)
        report.owed[currency] = -db.run(ledger.balance, clearing).posted.minor
        report.unclaimed[currency] = db.run(ledger.balance, unclaimed).posted.minor
    return report


def _add(report: Report, sums: dict[str, int], page: IntentAudit) -> None:
    for into, found in ((sums, page.sums), (report.late_minor, page.late_minor)):
        for currency, minor in found.items():
            into[currency] = into.get(currency, 0) + minor
    report.open += page.open
    report.late += page.late
    report.faulty += len(page.faults)
    report.faults += page.faults[: FAULTS_MAX - len(report.faults)]


def _is_paid(charge: Charge) -> bool:
    return charge.captured_minor > charge.refunded_minor + charge.disputed_minor


def _without_order(tx: Tx, charges: list[Charge], has_order: Callable[[Tx, Intent], bool]) -> list[str]:
    """Charges that are paid, wholly or in part, for nothing. Unknown ones are faults already."""
    known = [charge.key for charge in charges if _is_paid(charge) and auditing.is_known(tx, charge.key)]
    return [key for key in known if not has_order(tx, intent_of(tx, key))]
