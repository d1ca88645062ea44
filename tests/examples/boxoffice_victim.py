"""A process that buys two tickets and sends the receipt, and kills itself at one of its COMMITs.

    python boxoffice_victim.py URL SHOW NUMBER before|after|sent

With "sent" it is killed by whoever carries its COMMITs; it says "armed" and waits for a line before it begins.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import threading
from typing import Any

from examples.boxoffice import desk
from examples.boxoffice.purchase import SendReceipt, purchase
from examples.boxoffice.receipts import send_receipt

import onefold
from onefold import jobs
from onefold.engine.sqlite.connection import COMMIT, EngineConnection

ANA = "v-ana"


class Killer:
    """Counts COMMITs once it is armed."""

    armed = False
    left = 0
    when = "before"
    lock = threading.Lock()

    def around(self, commit: Any) -> Any:
        """Run a COMMIT; die before or after it when its turn has come."""
        with self.lock:
            self.left -= self.armed
            mine = self.armed and self.left == 0
        if mine and self.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = commit()
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


killer = Killer()


class Cursor(sqlite3.Cursor):
    def execute(self, sql: str, *parameters: Any) -> Any:
        if sql == COMMIT:
            return killer.around(lambda: sqlite3.Cursor.execute(self, sql, *parameters))
        return super().execute(sql, *parameters)


class Connection(EngineConnection):
    def cursor(self, factory: Any = Cursor) -> Any:
        return super().cursor(factory)

    def execute(self, sql: str, *parameters: Any) -> Any:
        return self.cursor().execute(sql, *parameters)


def wire(url: str) -> None:
    """Put the killer between the engine and its driver."""
    if url.startswith("postgres"):
        from onefold.engine.postgres.tx import PostgresTx

        commit = PostgresTx.commit
        PostgresTx.commit = lambda self: killer.around(lambda: commit(self))
        return
    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **kwargs: connect(*args, **{**kwargs, "factory": Connection})


def main(url: str, show: str, number: str, when: str) -> None:
    """The story: hold, buy, receipt."""
    wire(url)
    with onefold.connect(url) as db:
        sent = threading.Event()
        db.subscribe("events.appended", lambda _, facts: facts["stream"].startswith("receipt/") and sent.set())
        killer.left, killer.when, killer.armed = int(number), when, True
        if when == "sent":
            print("armed", flush=True)
            sys.stdin.readline()
        hold = db.run(desk.take_once, show, by=ANA, wish=desk.Wish(count=2), key="hold")
        order = db.run(purchase, hold.id, by=ANA, key="buy").value
        print(f"told {order.id}", flush=True)
        with jobs.Worker(db, tx={SendReceipt: send_receipt}, lease_ms=1_000):
            assert sent.wait(20)
        killer.armed = False
    print("survived", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
