"""The same purchase through FastAPI, Django, Flask and `db.run`: the same rows, on both engines."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from examples.purchase import Wanted, open_shop, purchase
from shops import COMMANDS, ROOT, environment, orders_of, rows_of, running, shop
from waiting import until

import onefold
from onefold import OnefoldError, events, ledger
from onefold.testing.postgres import Cluster

ASKED = [
    (Wanted("o-1", "ana", 1_250), 201),
    (Wanted("o-1", "ana", 1_250), 409),  # Placed already.
    (Wanted("o-2", "ana", 1_000_000), 409),  # Too little in the wallet.
    (Wanted("o-3", "nobody", 100), 404),
    (Wanted("o-4", "ana", 0), 400),
    (Wanted("o-5", "ana", 1), 201),
]
BOUGHT = [("o-1", "ana", 1_250), ("o-5", "ana", 1)]
NewUrl = Callable[[str], str]


@pytest.fixture(params=["sqlite", "postgres"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> NewUrl:
    """Makes migrated, empty databases, on each engine in turn."""

    def make(name: str) -> str:
        if request.param == "sqlite":
            url = str(tmp_path / f"{name}.db")
        else:
            cluster: Cluster = request.getfixturevalue("postgres_cluster")
            url = cluster.create_database(f"shop_{name}_{tmp_path.name[-30:]}".lower())
        onefold.migrate(url)
        return url

    return make


def through_run(url: str) -> dict[str, Any]:
    with onefold.connect(url) as db:
        db.run(open_shop, "ana")
        for wanted, status in ASKED:
            with contextlib.nullcontext() if status == 201 else pytest.raises(OnefoldError):
                db.run(purchase, wanted)
    return rows_of(url)


def through_a_shop(name: str, url: str, folder: Path) -> dict[str, Any]:
    with shop(name, url, folder) as opened:
        answers = [(opened.buy(wanted.order, wanted.buyer, wanted.cents)[0], status) for wanted, status in ASKED]
        assert all(got == status for got, status in answers), answers
        assert opened.request("POST", "/orders", {"order": 7})[0] == 422
        assert opened.request("GET", "/wallets/ana") == (200, {"buyer": "ana", "cents": 5_000 - 1_251})
        assert opened.request("GET", "/wallets/eve")[0] == 404
    assert orders_of(url) == BOUGHT
    return rows_of(url)


def test_the_same_purchase_leaves_the_same_rows(new_url: NewUrl, tmp_path: Path) -> None:
    expected = through_run(new_url("run"))
    assert len(expected["ledger_transfers"]) == 3
    assert [len(expected[table]) for table in ("events", "jobs_ready")] == [2, 2]
    for name in COMMANDS:
        found = through_a_shop(name, new_url(name), tmp_path)
        assert found.keys() == expected.keys()
        for table, rows in expected.items():
            assert found[table] == rows, f"{name}: {table}"


def test_three_shops_at_one_database_sell_what_there_is(
    new_url: NewUrl, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    url = new_url("all")
    with contextlib.ExitStack() as stack:
        shops = [stack.enter_context(shop(name, url, tmp_path)) for name in COMMANDS]
        calls = [threads.submit(shops[n % 3].buy, f"o-{n}", "ana", 250) for n in range(30)]
        answers = [call.result(60) for call in calls]
    bought = [f"o-{n}" for n, (status, _) in enumerate(answers) if status == 201]
    assert [status for status, _ in answers if status != 201] == [409] * 10, answers
    assert {body["code"] for status, body in answers if status == 409} == {"insufficient_funds"}
    assert sorted(order for order, _, _ in orders_of(url)) == sorted(bought)
    with onefold.connect(url) as db:
        assert db.run(ledger.balance, "wallet/ana").posted.minor == 0
        assert db.run(ledger.balance, "till").posted.minor == 5_000
        for n in range(30):
            assert db.run(events.version_of, f"order/o-{n}") == (1 if f"o-{n}" in bought else 0)
    rows = rows_of(url)
    assert len(rows["jobs_ready"]) == len(rows["events"]) == 20


def wait_for_the_receipt(url: str) -> None:
    with onefold.connect(url) as db:
        until(lambda: db.run(events.version_of, "receipt/o-1") == 1, "the receipt")


def test_fastapi_works_off_its_jobs(new_url: NewUrl, tmp_path: Path) -> None:
    url = new_url("fastapi")
    with shop("fastapi", url, tmp_path, SHOP_WORKER="1") as opened:
        assert opened.buy("o-1") == (201, {"event": "order/o-1@1"})
        wait_for_the_receipt(url)
    assert rows_of(url)["jobs_ready"] == rows_of(url)["jobs_running"] == []


def test_a_worker_of_its_own_does_the_jobs_of_the_others(new_url: NewUrl, tmp_path: Path) -> None:
    url = new_url("worker")
    worker = ["onefold.cli.main", "worker", "examples.purchase:worker"]
    with shop("django", url, tmp_path) as opened, running(worker, url, tmp_path / "worker.log"):
        assert opened.buy("o-1")[0] == 201
        wait_for_the_receipt(url)


def test_django_has_nothing_to_migrate_and_sees_its_tables_only(new_url: NewUrl) -> None:
    url = new_url("django")
    before = rows_of(url)

    def manage(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "django", *arguments, "--settings", "examples.django_shop.settings"],
            cwd=ROOT, env=environment(url), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "No changes detected" in manage("makemigrations", "--check", "--dry-run")
    assert "django_shop" in manage("migrate")
    assert "No planned migration operations" in manage("migrate", "--plan")
    seen = manage("inspectdb")
    assert "class ShopOrders" in seen
    assert "onefold" not in seen.lower()
    manage("flush", "--no-input")
    assert rows_of(url) == before


def test_the_script_runs(new_url: NewUrl) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.script", new_url("script")],
        cwd=ROOT, env=environment(""), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "left in the wallet: 37.50 EUR" in done.stdout


def test_alembic_migrates_the_shops_table_beside_ours(new_url: NewUrl) -> None:
    """It finds nothing left to migrate, so it neither misses its own table nor minds ours."""
    url = new_url("alembic")
    done = subprocess.run(
        [sys.executable, "-m", "examples.alembic_shop"],
        cwd=ROOT, env=environment(url), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "No new upgrade operations detected." in done.stdout
    ((order, buyer, cents),) = orders_of(url)
    assert (buyer, cents) == ("ana", 1_250)
    assert f"bought: order/{order}@1" in done.stdout
    rows = rows_of(url)
    assert [len(rows[table]) for table in ("ledger_transfers", "events", "jobs_ready")] == [2, 1, 1]
