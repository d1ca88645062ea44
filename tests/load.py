"""Threads that write without pause, for tests that take the database away from under them."""

from __future__ import annotations

import threading

from waiting import until

from onefold import Database, OnefoldError, Tx, Unknown

INSERT = "INSERT INTO onefold.counter_totals (space, key, total) VALUES (:space, :key, 1)"


class Load:
    """Threads that insert keys of their own and remember what they were told about each."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.acknowledged: set[str] = set()
        self.unknown: set[str] = set()
        self.unexpected: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(6)]
        for thread in self._threads:
            thread.start()

    def progress(self, by: int) -> None:
        target = len(self.acknowledged) + by
        until(lambda: len(self.acknowledged) >= target, f"{by} more acknowledged calls")

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(40)

    def _work(self, number: int) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            key = f"{number}/{count}"
            try:
                self.db.options(deadline_ms=20_000).run(insert, key)
            except Unknown:
                self.unknown.add(key)
            except OnefoldError as error:
                self.unexpected.append(error)
            else:
                self.acknowledged.add(key)

    def check(self) -> None:
        """Nothing acknowledged is lost, and nothing is there that nobody wrote."""
        stored = {row[0] for row in self.db.run(lambda tx: tx.all("SELECT key FROM onefold.counter_totals WHERE space = :space"))}
        assert not self.unexpected
        assert self.acknowledged <= stored
        assert stored <= self.acknowledged | self.unknown


def insert(tx: Tx, key: str) -> None:
    tx.run(INSERT, key=key)
