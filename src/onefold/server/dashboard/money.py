"""*Ledger* and *Booking*: does the money add up, and what is sold."""

from __future__ import annotations

from onefold.core.errors import Conflict, NotFound
from onefold.core.money import Money
from onefold.engine.tx import Tx
from onefold.products import booking, ledger
from onefold.server.dashboard import parts
from onefold.server.dashboard.markup import Markup, join, tag
from onefold.server.dashboard.request import CURSOR_LENGTH_MAX, Fields, Scene
from onefold.server.dashboard.views import Draw

LIMIT = 50
TRIAL_ACCOUNTS_MAX = 500  # More take too long for a page; `ledger.audit` goes through all.
SHOWS_MAX = 20
_OPEN = 'ledger.open_account(tx, "wallet/ana", currency="EUR")'
PAST_MS = 86_400_000  # Shows are listed until a day after they began.


def prepare_ledger(fields: Fields) -> Draw:
    """Accounts by name."""
    after = fields.text("after", most=CURSOR_LENGTH_MAX)
    return lambda tx, scene: _ledger(tx, scene, after)


def _ledger(tx: Tx, scene: Scene, after: str) -> Markup:
    page = ledger.list_accounts(tx, after=after or None, limit=LIMIT)
    rows = [_account(tx, scene, account) for account in page.items]
    headings = ("Account", "Kind", "#Posted", "#Reserved", "#Available", "Opened")
    return join(
        (
            tag("h1", "Ledger"),
            _trial(tx),
            parts.section(
                "Accounts, by name",
                parts.table(headings, rows, empty=parts.hint("There are no accounts.", _OPEN)),
                parts.more(scene, "ledger", page.after, {}),
            ),
        )
    )


def _account(tx: Tx, scene: Scene, account: ledger.Account) -> tuple[object, ...]:
    try:
        balance = ledger.balance(tx, account.name)
    except Conflict:  # Past the range of money; the accounts beside it are still to be seen.
        return (
            tag("code", account.name),
            account.kind,
            "out of range",
            None,
            None,
            parts.ago(scene, account.opened_at_ms),
        )
    available = parts.money(balance.available) if balance.available is not None else "no limit"
    return (
        tag("code", account.name),
        account.kind,
        parts.money(balance.posted),
        parts.money(balance.pending_out) if balance.pending_out.minor else parts.zero(),
        available,
        parts.ago(scene, account.opened_at_ms),
    )


def _trial(tx: Tx) -> Markup:
    """All balances of a currency add up to zero, since whatever one account got another gave."""
    page = ledger.list_accounts(tx, limit=TRIAL_ACCOUNTS_MAX)
    if page.after is not None:
        said = f"More than {TRIAL_ACCOUNTS_MAX} accounts: too many to add up here. See /v1/ledger/audit/accounts."
        return parts.section("Trial balance", tag("p", said, class_="empty"))
    sums: dict[str, int] = {}
    for account in page.items:
        try:
            minor = ledger.balance(tx, account.name).posted.minor
        except Conflict as error:
            minor = int(error.facts.get("balance", 0))
        sums[account.currency] = sums.get(account.currency, 0) + minor
    rows = [
        (
            currency,
            _sum(total, currency),
            parts.badge("adds up", "good") if total == 0 else parts.badge("does not add up", "bad"),
        )
        for currency, total in sorted(sums.items())
    ]
    table = parts.table(("Currency", "#Sum of all balances", ""), rows, empty="There is no money yet.")
    return parts.section(
        "Trial balance",
        table,
        note=f"Over all {len(page.items)} accounts, at one moment. Zero, or something is wrong.",
    )


def _sum(total: int, currency: str) -> str:
    return parts.money(Money(total, currency)) if abs(total) <= 10**15 else f"{total:,} {currency} (minor units)"


def prepare_booking(fields: Fields) -> Draw:
    """Shows that are not over for a day, in the order in which they begin."""
    after = fields.text("after", most=CURSOR_LENGTH_MAX)
    return lambda tx, scene: _booking(tx, scene, after)


def _booking(tx: Tx, scene: Scene, after: str) -> Markup:
    page = booking.list_shows(tx, from_ms=max(0, scene.now_ms - PAST_MS), after=after or None, limit=SHOWS_MAX)
    rows = [_show(tx, scene, show) for show in page.items]
    headings = ("Show", "Begins", "Sale", "#Free", "#Held", "#Sold", "")
    return join(
        (
            tag("h1", "Booking"),
            parts.section(
                "Shows, by when they begin",
                parts.table(headings, rows, empty=parts.hint("There are no shows.", "booking.add_show(tx, ...)")),
                parts.more(scene, "booking", page.after, {}),
            ),
        )
    )


def _show(tx: Tx, scene: Scene, show: booking.Show) -> tuple[object, ...]:
    sale = (
        parts.badge("open", "good") if show.sale_from_ms <= scene.now_ms < show.sale_until_ms else parts.badge("closed")
    )
    begins = parts.ago(scene, show.starts_at_ms)
    title = tag("span", show.title, tag("br"), parts.ident(show.id))
    try:
        sections = booking.availability(tx, show.id)
    except NotFound:  # Its seat map was removed.
        return title, begins, sale, None, None, None, None
    free, held, sold = (sum(getattr(one, what) for one in sections) for what in ("free", "held", "sold"))
    share = sold / max(1, free + held + sold)
    return title, begins, sale, f"{free:,}", f"{held:,}", f"{sold:,}", parts.meter(share, label=f"{share:.0%} sold")
