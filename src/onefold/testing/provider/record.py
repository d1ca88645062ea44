"""The fake provider's own record: charges and the journal of what moved, on a disk of its own.

It knows nothing of whoever asks it, so that an audit compares two witnesses. A key does a thing once.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from onefold.products.payments import Charge, DisputeRecord, RefundRecord

PAGE = 500

_SCHEMA = """
CREATE TABLE IF NOT EXISTS charges (key TEXT PRIMARY KEY, queued INTEGER NOT NULL, charge TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS journal (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, what TEXT NOT NULL, currency TEXT NOT NULL, minor INTEGER NOT NULL
) STRICT;
"""

Changed = Callable[[Charge], object]


class Record:
    """Charges by key; thread by thread. What it answers is on the disk.

    Args:
        file: an SQLite database; made when it is not there.
        changed: told each charge that changed, once it is on the disk.
    """

    def __init__(self, file: Path, changed: Changed) -> None:
        self._lock = threading.Lock()
        self._changed = changed
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.executescript(_SCHEMA)

    def authorise(self, asked: Charge, *, capture: bool, decline: bool) -> Charge:
        """Reserve, or take, what a new key asks for; a known key answers what became of it."""
        with self._lock:
            known = self._get(asked.key)
            if known is not None and not self._queued(asked.key):
                return known
            if decline:
                return self._put(msgspec.structs.replace(asked, state="declined"))
            if capture:
                return self._taken(asked, asked.amount_minor)
            return self._put(asked)

    def queue(self, asked: Charge) -> None:
        """Keep a request that was received and never worked on; queries do not see it."""
        with self._lock:
            if self._get(asked.key) is None:
                self._put(asked, queued=True)

    def capture(self, key: str, minor: int) -> Charge | None:
        """Take what is authorised; any other state stays as it is."""
        with self._lock:
            charge = self._seen(key)
            if charge is None or charge.state != "authorised" or not 1 <= minor <= charge.amount_minor:
                return charge
            return self._taken(charge, minor)

    def cancel(self, key: str) -> tuple[Charge, bool]:
        """Let go; a key never heard of is canceled for good. Also whether something was there to let go."""
        with self._lock:
            charge = self._get(key)
            if charge is None:
                return self._put(Charge(key, "canceled", "XTS", 0)), False
            if charge.state != "authorised":
                return charge, False
            return self._put(msgspec.structs.replace(charge, state="canceled")), True

    def take_late(self, key: str) -> None:
        """Take what was canceled: what good providers never do, and what happens."""
        with self._lock:
            charge = self._get(key)
            if charge is not None and charge.state == "canceled" and charge.amount_minor:
                self._taken(charge, charge.amount_minor)

    def refund(self, key: str, refund_id: str, minor: int) -> Charge | None:
        """Give back, once for each refund id; more than was taken fails."""
        with self._lock:
            charge = self._seen(key)
            if charge is None or any(known.id == refund_id for known in charge.refunds):
                return charge
            ok = minor + charge.refunded_minor + charge.disputed_minor <= charge.captured_minor
            made = RefundRecord(refund_id, minor, "succeeded" if ok else "failed")
            if ok:
                self._journal(charge, "refund", -minor)
            return self._put(msgspec.structs.replace(charge, refunds=(*charge.refunds, made)))

    def dispute(self, key: str, minor: int, state: str) -> Charge | None:
        """Open a dispute ("open") or decide it ("won", "lost")."""
        with self._lock:
            charge = self._seen(key)
            if charge is None or charge.state != "captured":
                return charge
            before = charge.disputed_minor
            after = msgspec.structs.replace(
                charge, dispute=msgspec.convert({"amount_minor": minor, "state": state}, DisputeRecord)
            )
            if after.disputed_minor != before:
                self._journal(charge, "dispute", before - after.disputed_minor)
            return self._put(after)

    def find(self, key: str) -> Charge | None:
        """The charge, unless nobody worked on it yet."""
        with self._lock:
            return self._seen(key)

    def page(self, after: str) -> list[Charge]:
        """Charges in the order of their keys."""
        with self._lock:
            rows = self._db.execute(
                "SELECT charge FROM charges WHERE key > ? AND NOT queued ORDER BY key LIMIT ?", (after, PAGE)
            ).fetchall()
        # A key that was canceled before it was heard of has no amount: it is no charge.
        return [charge for (text,) in rows if (charge := _read(text)).amount_minor]

    def totals(self) -> dict[str, int]:
        """By the journal: what was taken less what went back, by currency."""
        with self._lock:
            return dict(self._db.execute("SELECT currency, sum(minor) FROM journal GROUP BY currency").fetchall())

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _taken(self, charge: Charge, minor: int) -> Charge:
        self._journal(charge, "capture", minor)
        return self._put(msgspec.structs.replace(charge, state="captured", captured_minor=minor))

    def _journal(self, charge: Charge, what: str, minor: int) -> None:
        self._db.execute("BEGIN IMMEDIATE")  # Ends with the charge's row, in `_put`.
        self._db.execute(
            "INSERT INTO journal (key, what, currency, minor) VALUES (?, ?, ?, ?)",
            (charge.key, what, charge.currency, minor),
        )

    def _put(self, charge: Charge, *, queued: bool = False) -> Charge:
        self._db.execute(
            "INSERT INTO charges VALUES (?, ?, ?) "
            "ON CONFLICT (key) DO UPDATE SET queued = excluded.queued, charge = excluded.charge",
            (charge.key, queued, msgspec.json.encode(charge).decode()),
        )
        if self._db.in_transaction:
            self._db.execute("COMMIT")
        if not queued and charge.amount_minor:
            self._changed(charge)
        return charge

    def _get(self, key: str) -> Charge | None:
        row = self._db.execute("SELECT charge FROM charges WHERE key = ?", (key,)).fetchone()
        return _read(row[0]) if row else None

    def _seen(self, key: str) -> Charge | None:
        return None if self._queued(key) else self._get(key)

    def _queued(self, key: str) -> bool:
        row = self._db.execute("SELECT queued FROM charges WHERE key = ?", (key,)).fetchone()
        return bool(row and row[0])


def _read(text: str) -> Charge:
    return msgspec.json.decode(text, type=Charge)
