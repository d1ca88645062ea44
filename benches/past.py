"""A past to work beside: what earlier purchases left behind, in every table that has lines of a purchase.

One purchase is made as the shop makes it, down to the receipt; the others are copied from its rows in bulk, under
ids, buyers and shows of their own. The ledger's audit finds nothing in it (`tests/benches/test_past.py`).
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from examples.boxoffice import desk, receipts, season, wallets
from examples.boxoffice.purchase import SendReceipt, purchase

import onefold
from onefold import Database, Tx, booking, events, jobs

COUNT_MIN = 20
PER_BUYER = 5
ORDERS_PER_SHOW = 1_000  # Two seats each: the hall is full.
UNTIL_MS = 1_700_000_000_000  # All of it was before.
MODEL = "buyer-model"

_ZEROS = "'000000000000000000000000'"  # Numbers as wide, and as sorted, as the ids that the engine draws.


def _no(i: str) -> str:
    return f"{_ZEROS} || CAST(10000000 + {i} AS TEXT)"


def _buyer(i: str) -> str:
    """Their names lie among those of buyers yet to come."""
    return f"'buyer-' || CAST(({i}) % {{buyers}} AS TEXT) || 'p'"


def _order(i: str) -> str:
    return f"'order_' || {_no(i)}"


def _show(i: str) -> str:
    return f"'show_' || {_no(f'({i}) / {{per_show}}')}"


def _hold(i: str) -> str:
    """Its id names row and show."""
    return f"'hold_' || {_no(i)} || '.4.0.' || {_no(f'({i}) / {{per_show}}')}"


def _own(column: str, i: str) -> str:
    """A text of the model purchase with other ids in it."""
    named = f"replace(replace({column}, '{{order}}', {_order(i)}), '{{hold}}', {_hold(i)})"
    return f"replace(replace({named}, '{MODEL}', {_buyer(i)}), '{{show}}', {_show(i)})"


_LAST = "i + {buyers} * (({count} - 1 - i) / {buyers})"  # The number of buyer i's last purchase ...
_MADE = "(({count} - 1 - i) / {buyers} + 1)"  # ... and how many they made.

# A model's rows are picked with LIMIT, so that no planner looks for them again for each number.
#: How many numbers each text goes through, and the text, which both engines read.
PAST = (
    ("shows", """INSERT INTO onefold.booking_shows (space, id, venue_id, title, starts_at_ms, sale_from_ms, sale_until_ms, prices, currency, created_at_ms)
        {numbers} SELECT m.space, """ + "'show_' || " + _no("i") + """, m.venue_id, m.title, 1600000000000 + i * 3600000, 0,
               1600000000000 + i * 3600000, m.prices, m.currency, 1500000000000 + i
        FROM n, (SELECT * FROM onefold.booking_shows WHERE id = '{show}' LIMIT 200) m"""),
    ("shows", """INSERT INTO onefold.booking_rows (space, show_id, row_no, place, section, label, whole, aisles, pitch_cm, x2, y2, near,
               price_minor, currency, sale_from_ms, sale_until_ms, sold, held, holds, lapses_at_ms, best_run, ver)
        {numbers} SELECT m.space, """ + "'show_' || " + _no("i") + """, m.row_no, m.place, m.section, m.label, m.whole, m.aisles,
               m.pitch_cm, m.x2, m.y2, m.near, m.price_minor, m.currency, 0, 1600000000000 + i * 3600000, m.whole, 0, '', NULL, 0, 18
        FROM n, (SELECT * FROM onefold.booking_rows WHERE show_id = '{show}' LIMIT 200) m ORDER BY i, m.row_no"""),
    ("count", """INSERT INTO onefold.booking_orders (space, id, show_id, buyer, hold_id, blocks, price_minor, currency, created_at_ms)
        {numbers} SELECT m.space, 'order_' || """ + _no("i") + ", " + _show("i") + ", " + _buyer("i") + ", " + _hold("i") + """,
               m.blocks, m.price_minor, m.currency, 1600000000000 + i
        FROM n, (SELECT * FROM onefold.booking_orders WHERE id = '{order}' LIMIT 200) m"""),
    ("buyers", """INSERT INTO onefold.ledger_accounts (space, name, currency, limited, opened_at_ms)
        {numbers} SELECT m.space, 'wallet/' || """ + _buyer("i") + """, m.currency, m.limited, 1500000000000 + i
        FROM n, (SELECT * FROM onefold.ledger_accounts WHERE name = 'wallet/""" + MODEL + "' LIMIT 1) m"),
    ("buyers", """INSERT INTO onefold.ledger_transfers (space, id, kind, debit, credit, currency, amount, memo, at_ms, debit_limited, credit_limited)
        {numbers} SELECT m.space, 'welcome/' || """ + _buyer("i") + ", 'transfer', m.debit, 'wallet/' || " + _buyer("i") + """, m.currency,
               m.amount, m.memo, 1500000000000 + i, m.debit_limited, m.credit_limited
        FROM n, (SELECT * FROM onefold.ledger_transfers WHERE id = 'welcome/""" + MODEL + "' LIMIT 1) m"),
    ("count", """INSERT INTO onefold.ledger_transfers (space, id, kind, debit, credit, currency, amount, memo, at_ms, debit_limited, credit_limited)
        {numbers} SELECT m.space, """ + _hold("i") + ", 'transfer', 'wallet/' || " + _buyer("i") + """, m.credit, m.currency,
               m.amount, m.memo, 1600000000000 + i, m.debit_limited, m.credit_limited
        FROM n, (SELECT * FROM onefold.ledger_transfers WHERE id = '{hold}' LIMIT 200) m"""),
    ("buyers", """INSERT INTO onefold.ledger_entries (space, transfer_id, account, number, balance, previous_id)
        {numbers} SELECT s.space, 'welcome/' || """ + _buyer("i") + ", 'wallet/' || " + _buyer("i") + ", 1, {welcome}, NULL FROM n, {space}"),
    ("count", """INSERT INTO onefold.ledger_entries (space, transfer_id, account, number, balance, previous_id)
        {numbers} SELECT s.space, """ + _hold("i") + ", 'wallet/' || " + _buyer("i") + """, i / {buyers} + 2,
               {welcome} - {price} * (i / {buyers} + 1),
               CASE WHEN i < {buyers} THEN 'welcome/' || """ + _buyer("i") + " ELSE " + _hold("i - {buyers}") + """ END
        FROM n, {space}"""),
    ("buyers", """INSERT INTO onefold.ledger_balances (space, account, posted, reserved, overdraft_minor, entries, last_id, previous_id)
        {numbers} SELECT s.space, 'wallet/' || """ + _buyer("i") + ", {welcome} - {price} * " + _MADE + ", 0, 0, " + _MADE + " + 1, " + _hold(_LAST) + """,
               CASE WHEN """ + _MADE + " = 1 THEN 'welcome/' || " + _buyer("i") + " ELSE " + _hold(_LAST + " - {buyers}") + """ END
        FROM n, {space}"""),
    ("one", """INSERT INTO onefold.counter_deltas (space, key, delta)
        {numbers} SELECT s.space, 'ledger/""" + wallets.TILL + "', {till} FROM n, {space}"),
    ("one", """INSERT INTO onefold.counter_deltas (space, key, delta)
        {numbers} SELECT s.space, 'ledger/""" + wallets.BANK + "', {bank} FROM n, {space}"),
    ("count", """INSERT INTO onefold.idempotency_keys (space, scope, key, fingerprint, answer, asked_at_ms, expires_at_ms)
        {numbers} SELECT m.space, 'purchase ' || """ + _buyer("i") + ", 'key-' || CAST(i AS TEXT), m.fingerprint, " + _own("m.answer", "i") + """,
               1600000000000 + i, 4000000000000
        FROM n, (SELECT * FROM onefold.idempotency_keys WHERE scope = 'purchase """ + MODEL + "' LIMIT 1) m"),
)  # fmt: skip
_EVENTS = ("twice", """{numbers} SELECT m.space, {last_event} + 1 + i, """ + _own("m.stream", "i / 2") + """, 1, m.category, m.kind,
               m.kind_version, """ + _own("m.data", "i / 2") + ", 1600000000000 + i / 2, " + _own("m.causation", "i / 2") + """{more}
        FROM n JOIN (SELECT * FROM onefold.events WHERE stream IN ('order/{order}', 'receipt/{order}') LIMIT 2) m
             ON m.stream = CASE i % 2 WHEN 0 THEN 'order/{order}' ELSE 'receipt/{order}' END ORDER BY i""")  # fmt: skip
SQLITE = (
    (_EVENTS[0], "INSERT INTO onefold.events (space, seq, stream, version, category, kind, kind_version, data, at_ms, causation) "
     + _EVENTS[1].replace("{more}", "")),
)  # fmt: skip
# The transaction number of the model's events, which the sequencer has dealt with.
POSTGRES = (
    (_EVENTS[0], "INSERT INTO onefold.events (space, seq, stream, version, category, kind, kind_version, data, at_ms, causation, xid, system) "
     "OVERRIDING SYSTEM VALUE " + _EVENTS[1].replace("{more}", ", m.xid, m.system")),
    ("twice", """INSERT INTO onefold.event_streams (space, stream, version, appends)
        {numbers} SELECT s.space, CASE i % 2 WHEN 0 THEN 'order/order_' ELSE 'receipt/order_' END || """ + _no("i / 2") + ", 1, 1 FROM n, {space}"),
    ("one", """INSERT INTO onefold.event_positions (space, pos, seq, category, step)
        SELECT e.space, (SELECT max(pos) FROM onefold.event_positions) + e.seq - {last_event}, e.seq, e.category,
               (SELECT max(step) FROM onefold.event_steps)
        FROM onefold.events e WHERE e.seq > {last_event} ORDER BY e.seq"""),
    ("one", "SELECT setval(pg_get_serial_sequence('onefold.events', 'seq'), max(seq)) FROM onefold.events"),
)  # fmt: skip
_NUMBERS = "WITH RECURSIVE n (i) AS (SELECT CAST(0 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < {most} - 1)"
_SPACE = "(SELECT space FROM onefold.spaces WHERE name = '') s"


def remember(where: str | Path, count: int, *more: tuple[str, str]) -> None:
    """Open the house in an empty database, and give it `count` past purchases.

    Args:
        where: a migrated PostgreSQL database, or the path of an SQLite file; nobody else has it open.
        count: at least `COUNT_MIN`.
        more: further texts as in `PAST`.
    """
    assert count >= COUNT_MIN
    with onefold.connect(where) as db:
        facts = _model(db)
        buyers, shows = count // PER_BUYER, -(-count // ORDERS_PER_SHOW)
        facts |= {
            "count": count, "buyers": buyers, "shows": shows, "per_show": ORDERS_PER_SHOW,
            "till": facts["price"] * count, "bank": -facts["welcome"] * buyers,
        }  # fmt: skip
        postgres = db.dialect == "postgres"
    most = {"count": count, "buyers": buyers, "shows": shows, "twice": 2 * count, "one": 1}
    texts = [
        text.format(**facts, numbers=_NUMBERS.format(most=most[through]), space=_SPACE)
        for through, text in (*PAST, *(POSTGRES if postgres else SQLITE), *more)
    ]
    if postgres:
        with psycopg.connect(str(where), autocommit=True) as connection:
            connection.execute("SET synchronous_commit = off")
            for text in texts:
                connection.execute(text.encode())
            connection.execute("VACUUM ANALYZE")
        return
    connection = sqlite3.connect(where)
    # No journal and a roomy cache: ten million rows in a minute instead of five.
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -1000000", "temp_store = MEMORY"):
        connection.execute(f"PRAGMA {pragma}")
    for text in texts:
        connection.execute(text.replace("onefold.", "onefold_"))
    connection.commit()
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "16GB", "checkpoint_timeout": "1h", "autovacuum": "off"}
"""Of a PostgreSQL cluster that gets a long past in little time."""


def _model(db: Database) -> dict[str, Any]:
    """One purchase from hold to receipt; answers what its rows are found by."""
    season.open_house(db)
    show = db.run(booking.list_shows, from_ms=UNTIL_MS, limit=1).items[0]
    hold = db.run(desk.take_once, show.id, by=MODEL, wish=desk.Wish(count=2), key="model")
    order = db.run(purchase, hold.id, by=MODEL, key="model").value
    with jobs.Worker(db, tx={SendReceipt: receipts.send_receipt}):
        while db.run(receipts.receipt_of, order.id) is None:
            time.sleep(0.01)
    while db.options(isolation="repeatable_read").run(events.sequence):
        pass
    return {
        "show": show.id, "hold": hold.id, "order": order.id, "price": order.price.minor, "welcome": wallets.WELCOME.minor,
        "last_event": db.run(_last_event),
    }  # fmt: skip


def _last_event(tx: Tx) -> int:
    row = tx.one("SELECT max(seq) FROM onefold.events WHERE space = :space")
    assert row is not None
    return msgspec.convert(row[0], int)
