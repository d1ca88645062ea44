"""The shops of `examples`, each a real server in a process of its own, and what they leave in a database."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from waiting import until

ROOT = Path(__file__).parent.parent.parent
COMMANDS = {
    "django": ["examples.django_shop", "0"],
    "fastapi": ["uvicorn", "examples.fastapi_shop:app", "--port", "0"],
    "flask": ["flask", "--app", "examples.flask_shop", "run", "--port", "0"],
}
LISTENS = re.compile(r"running on http://127\.0\.0\.1:(\d+)", re.IGNORECASE)
# Who ran an attempt through `db.run`, for a COMMIT whose answer is lost; in a joined transaction that is the owner's.
ENGINE_ONLY = {"tx"}
AN_ID = re.compile(r"\b[a-z]+_[0-9a-f]{32}\b")
OF_THE_TRANSACTION = {"xid", "system"}  # PostgreSQL's number of the transaction, and of the cluster.


def environment(url: str, **more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "ONEFOLD_URL": url, "SHOP_WORKER": "0", **more}


class Shop:
    """A running shop."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        def listening() -> re.Match[str] | None:
            text = log.read_text(encoding="utf-8")
            assert process.poll() is None, text
            return LISTENS.search(text)

        self.port = int(until(listening, "the shop opening")[1])

    def request(self, method: str, target: str, send: object = None) -> tuple[int, Any]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            body = None if send is None else json.dumps(send)
            connection.request(method, target, body=body, headers={"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def buy(self, order: object, buyer: str = "ana", cents: int = 100) -> tuple[int, Any]:
        return self.request("POST", "/orders", {"order": order, "buyer": buyer, "cents": cents})


@contextmanager
def running(arguments: list[str], url: str, log: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A module of Python as a process that is gone at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=ROOT, stdout=output, stderr=output, env=environment(url, **more)
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


@contextmanager
def shop(name: str, url: str, folder: Path, **more: str) -> Iterator[Shop]:
    log = folder / f"{name}.log"
    with running(COMMANDS[name], url, log, **more) as process:
        yield Shop(process, log)


def rows_of(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables of Onefold, without what no two runs have in common: ids, times, transaction numbers."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for table, columns, rows in (_postgres_tables(url) if url.startswith("postgresql://") else _sqlite_tables(url)):
        if table not in ENGINE_ONLY:
            found[table] = sorted((_plain(columns, row) for row in rows), key=repr)
    return found


def orders_of(url: str) -> list[tuple[Any, ...]]:
    """The shop's own rows."""
    query = "SELECT id, buyer, cents FROM shop_orders ORDER BY id"
    if url.startswith("postgresql://"):
        with psycopg.connect(url) as connection:
            return connection.execute(query).fetchall()
    with closing(sqlite3.connect(url)) as connection:
        return connection.execute(query).fetchall()


def _plain(columns: list[str], row: tuple[Any, ...]) -> tuple[Any, ...]:
    def plain(column: str, value: object) -> object:
        if value is not None and (column.endswith("_ms") or column in OF_THE_TRANSACTION):
            return column
        return AN_ID.sub("an id", value) if isinstance(value, str) else value

    return tuple(plain(column, value) for column, value in zip(columns, row, strict=True))


def _sqlite_tables(url: str) -> Iterator[tuple[str, list[str], list[tuple[Any, ...]]]]:
    with closing(sqlite3.connect(url)) as connection:
        listed = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'onefold\\_%' ESCAPE '\\'")
        for (name,) in listed.fetchall():
            cursor = connection.execute(f"SELECT * FROM {name}")
            yield name.removeprefix("onefold_"), [column[0] for column in cursor.description], cursor.fetchall()


def _postgres_tables(url: str) -> Iterator[tuple[str, list[str], list[tuple[Any, ...]]]]:
    with psycopg.connect(url) as connection:
        listed = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'onefold'")
        for (name,) in listed.fetchall():
            cursor = connection.execute(sql.SQL("SELECT * FROM onefold.{}").format(sql.Identifier(name)))
            yield name, [column[0] for column in cursor.description or ()], cursor.fetchall()
