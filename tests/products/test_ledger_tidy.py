"""How the ledger's loop is carried out: one statement for a step, by keys alone, whatever number of wallets it meets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
from ledger_bank import HOUR, age, eur, open_bank
from test_plans import plan_on_postgres, set_up

import onefold
from onefold import Database, Tx, ledger
from onefold.products.ledger.tidy import RELEASE, TIDY_MAX, tidy

WALLETS = TIDY_MAX // 2


def fill(tx: Tx) -> None:
    """Two lapsing reservations in each of a hundred wallets."""
    open_bank(tx)
    for number in range(WALLETS):
        ledger.open_account(tx, f"many/{number:03d}", currency="EUR")
        ledger.transfer(tx, f"in{number}", debit="bank", credit=f"many/{number:03d}", amount=eur(10))
        for part in "ab":
            ledger.pend(
                tx, f"p{number}{part}", debit=f"many/{number:03d}", credit="till", amount=eur(3), timeout_ms=HOUR
            )


class Counting:
    """A `tx` that counts what it asks, and what it only tells."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self.asked = self.told = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    def all(self, sql: str, **parameters: Any) -> Any:
        """A round trip."""
        self.asked += 1
        return self._tx.all(sql, **parameters)  # type: ignore[arg-type]

    def one(self, sql: str, **parameters: Any) -> Any:
        """A round trip."""
        self.asked += 1
        return self._tx.one(sql, **parameters)  # type: ignore[arg-type]

    def many(self, sql: str, rows: list[dict[str, Any]]) -> None:
        """Nobody waits for it."""
        self.told += len(rows)
        self._tx.many(sql, rows)  # type: ignore[arg-type]


def test_a_step_asks_once(db: Database) -> None:
    db.run(fill)
    age(db, HOUR)

    def counted(tx: Tx) -> tuple[bool, int, int]:
        counting = Counting(tx)
        return tidy(counting), counting.asked, counting.told  # type: ignore[arg-type]

    assert db.options(isolation="read_committed").run(counted) == (True, 1, WALLETS)
    reserved = "SELECT count(*), sum(reserved) FROM onefold.ledger_balances WHERE space = :space AND account LIKE 'many/%'"
    assert db.run(lambda tx: tx.one(reserved)) == (WALLETS, 0)
    assert db.options(isolation="read_committed").run(counted) == (False, 1, 0)


def test_sqlite_goes_by_keys(tmp_path: Path) -> None:
    with onefold.connect(tmp_path / "a.db") as db:
        plan = str(db.run(lambda tx: tx.all("EXPLAIN QUERY PLAN " + RELEASE, most=TIDY_MAX)))  # type: ignore[arg-type]
    assert "SEARCH p USING INDEX onefold_ledger_pendings_expires" in plan
    assert "SEARCH b USING PRIMARY KEY (space=? AND account=?)" in plan
    assert "SEARCH onefold_ledger_pendings USING PRIMARY KEY (space=? AND id=?)" in plan


def test_postgres_goes_by_keys_and_locks_all_wallets_in_the_order_of_their_names_first(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        set_up(connection)
        plan = plan_on_postgres(connection, RELEASE)
    nodes = [node["Node Type"] for node in plan]
    assert nodes[nodes.index("LockRows") + 1] == "Sort"
    assert [node["Sort Key"] for node in plan if node["Node Type"] == "Sort"] == [["b.space", 'b.account COLLATE "C"']]
    found = {node["Index Name"]: node.get("Index Cond", "") for node in plan if "Index Name" in node}
    assert set(found) == {"onefold_ledger_pendings_expires", "ledger_balances_pkey", "ledger_pendings_pkey"}
    assert all(found.values())
    assert any("One-Time Filter" in node for node in plan), "the count of the locked ones comes before the first row"
