"""`onefold doctor`: what is wrong, and what to do about it. It changes nothing.

Whatever is not well comes with a fix: the command, where there is one.

Exit code 0 when nothing is wrong (warnings may stand), 1 otherwise.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from onefold.cli.answer import file_of, is_postgres, say, without_password
from onefold.cli.progress import Progress
from onefold.cli.symptoms import Finding, symptoms
from onefold.core.errors import OnefoldError
from onefold.engine import inspect
from onefold.engine.telling import Tell, quiet
from onefold.host import disks

MIB = 1 << 20
FREE_BYTES_WARN, FREE_BYTES_BAD = 1_024 * MIB, 100 * MIB
WAL_BYTES_WARN = 256 * MIB
SYNCS_SLOW, SYNCS_IMPLAUSIBLE = 200, 60_000  # Per second.
WAL_RESET_FIXED = (3, 51, 3)
SQLITE_MIN = (3, 40, 0)
POSTGRES_MIN = 150_000
CONNECTIONS_OF_A_PROCESS = 12
OLD_TRANSACTION_MS = 60_000
OLD_SNAPSHOT_MS = 600_000
SKEW_MS = 1_000  # Leases are compared with one clock; people and logs with the other.

_MARKS = {"ok": "ok  ", "note": "note", "warn": "WARN", "bad": "BAD "}


def command(options: argparse.Namespace) -> int:
    """Look at everything, then say it, worst last."""
    with Progress(options) as tell:
        found = list(examine(options.url, thorough=options.check, tell=tell))
    wrong = sum(finding.level == "bad" for finding in found)
    warned = sum(finding.level == "warn" for finding in found)

    def lines() -> Iterator[str]:
        for finding in found:
            yield f"{_MARKS[finding.level]}  {finding.check}: {finding.text}"
            if finding.fix:
                yield f"      fix: {finding.fix}"
        yield f"{wrong} wrong, {warned} to look at." if wrong or warned else "All well."

    options.exit_code = 1 if wrong else 0  # Also if nobody reads the lines to their end.
    say(options, {"url": without_password(options.url), "healthy": not wrong, "findings": found}, lines)
    return options.exit_code


def examine(url: str, *, thorough: bool = False, tell: Tell = quiet) -> Iterator[Finding]:
    """All findings for the database at `url`; `tell` hears of what takes its time."""
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", "ok", python)
    if is_postgres(url):
        yield from _postgres(url)
    else:
        yield from _sqlite(file_of(url), thorough=thorough, tell=tell)


# -- SQLite -----------------------------------------------------------------------------------


def _sqlite(path: Path, *, thorough: bool, tell: Tell) -> Iterator[Finding]:
    yield from _library()
    folder, url = path.parent, shlex.quote(str(path))
    if not folder.is_dir():
        fix = f"mkdir -p {shlex.quote(str(folder))}"
        yield Finding("file", "bad", f"the folder {folder} does not exist", fix)
        return
    yield from _disk(folder)
    if not path.exists():
        yield Finding("file", "note", f"{path} does not exist yet", f"onefold migrate --url {url}, or connect")
        return
    yield from _processes(path)
    yield from _gate(path)
    yield from _wal(path)
    try:
        facts = inspect.inspect_sqlite(path, thorough=thorough, tell=tell)
    except OnefoldError as error:
        yield Finding("file", "bad", str(error), f"onefold restore BACKUP --url {url}.new; keep this file")
        return
    if facts.journal_mode != "wal":
        yield Finding("journal", "note", f"mode {facts.journal_mode}", f"onefold migrate --url {url}; it sets WAL")
    yield Finding("file", "ok", f"{facts.bytes_total // MIB} MiB, {facts.bytes_free // MIB} MiB of it free for reuse")
    yield _schema(facts.schema, f"onefold migrate --url {url}; else the first program that connects does it")
    if facts.migrated_at_ms > time.time_ns() // 1_000_000 + SKEW_MS:
        yield Finding(
            "clock", "warn", "the database was migrated in the future: this clock goes slow, or was set back",
            "timedatectl set-ntp true; leases, delays and schedules wait until it has caught up",
        )  # fmt: skip
    if facts.damage is None:
        yield Finding("damage", "note", "not looked for", f"onefold doctor --check --url {url}")
    elif facts.damage:
        fix = f"stop all programs; onefold restore BACKUP --url {url}.new"
        yield Finding("damage", "bad", "; ".join(facts.damage[:3]), fix)
    else:
        yield Finding("damage", "ok", "none found")
    if not facts.damage and not facts.schema.missing and not facts.schema.refused:
        yield from symptoms(str(path), str(path))


def _library() -> Iterator[Finding]:
    have = inspect.sqlite_version()
    version = tuple(map(int, have.split(".")))
    if version < SQLITE_MIN:
        yield Finding("sqlite", "bad", f"SQLite {have} is too old", "use a Python built with SQLite 3.40 or newer")
    elif version < WAL_RESET_FIXED:
        yield Finding(
            "sqlite", "note",
            f"SQLite {have} may lose a commit when two processes reset the WAL at once (fixed in 3.51.3); "
            "programs that take the gate are safe from it",
            "a Python with SQLite 3.51.3 or newer; until then let every writer take the gate",
        )  # fmt: skip
    else:
        yield Finding("sqlite", "ok", f"SQLite {have}")


def _disk(folder: Path) -> Iterator[Finding]:
    kind = disks.file_system_of(folder)
    if kind is None:
        fix = f"df -T {shlex.quote(str(folder))}; it must be a local disk"
        yield Finding("file system", "note", "its type is not told here", fix)
    elif disks.is_network(kind):
        yield Finding(
            "file system", "bad", f"{kind} is a network or shared file system: locks and the WAL do not hold on it",
            "move the file to a local disk, or use PostgreSQL",
        )  # fmt: skip
    elif kind in disks.VOLATILE:
        yield Finding("file system", "warn", f"{kind} lives in memory: a restart loses all", "use a disk")
    else:
        yield Finding("file system", "ok", kind)
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES_WARN:
        level: Literal["warn", "bad"] = "bad" if free < FREE_BYTES_BAD else "warn"
        yield Finding("free space", level, f"{free // MIB} MiB", f"make room on the disk of {folder}")
    else:
        yield Finding("free space", "ok", f"{free // MIB} MiB")
    try:
        rate, median_ms = disks.sync_rate(folder)
    except OSError as error:
        yield Finding("disk", "bad", f"cannot write in {folder}: {error.strerror}", f"let this user write in {folder}")
        return
    text = f"{rate:,.0f} durable writes of 4 KiB a second, median {median_ms:.2f} ms"
    if rate < SYNCS_SLOW:
        yield Finding("disk", "warn", text, 'a faster disk, or durability="everysec" where a lost second is bearable')
    elif rate > SYNCS_IMPLAUSIBLE:
        yield Finding("disk", "warn", f"{text}: too fast to be true", "make sure that fsync reaches the disk here")
    else:
        yield Finding("disk", "ok", text)


def _processes(path: Path) -> Iterator[Finding]:
    holders = disks.holders_of(path)
    without = sorted(pid for pid, files in holders.items() if "-gate" not in files)
    if not holders:
        yield Finding("processes", "ok", "nobody has the file open")
    elif not without:
        yield Finding("processes", "ok", f"{len(holders)} with the file open, all take the gate")
    else:
        pids = ", ".join(map(str, without))
        yield Finding(
            "processes", "warn", f"without the gate: pid {pids}",
            "if they write: onefold.sqlalchemy.gate(engine), Django's ENGINE onefold.integrations.django.sqlite,"
            " or let them write through Onefold; readers are harmless",
        )  # fmt: skip


def _gate(path: Path) -> Iterator[Finding]:
    if not path.with_name(path.name + "-gate").exists():
        return
    from onefold.host.gate import Gate

    gate = Gate(path)
    try:
        if gate.try_acquire():
            gate.release()
            yield Finding("gate", "ok", "free")
            return
        holder = gate.holder()
    finally:
        gate.close()
    if "gone" in holder:
        yield Finding("gate", "bad", f"held by {holder}", "end the child processes of that program")
    else:
        yield Finding(
            "gate", "note", f"held or waited for just now; last taken by {holder}",
            f"ps -o pid,etime,cmd -p {holder.split()[1] if holder.startswith('pid ') else '$$'}",
        )  # fmt: skip


def _wal(path: Path) -> Iterator[Finding]:
    wal = path.with_name(path.name + "-wal")
    size = wal.stat().st_size if wal.exists() else 0
    if size > WAL_BYTES_WARN:
        # A snapshot that stays open leaves no other trace in the file.
        pids = ",".join(map(str, sorted(disks.holders_of(path)))) or "$(lsof -t FILE)"
        yield Finding(
            "wal", "warn", f"{size // MIB} MiB: a reader that keeps its snapshot open keeps it from being reused",
            f"ps -o pid,etime,cmd -p {pids}; end the reader, and the next commits shrink the WAL",
        )  # fmt: skip
    else:
        yield Finding("wal", "ok", f"{size // 1024} KiB")


# -- PostgreSQL ---------------------------------------------------------------------------------


def _postgres(url: str) -> Iterator[Finding]:
    try:
        facts = inspect.inspect_postgres(url)
    except OnefoldError as error:
        yield Finding("server", "bad", str(error), "check the URL, the network and pg_hba.conf")
        return
    version = f"PostgreSQL {facts.version // 10_000}.{facts.version % 10_000}"
    if facts.version < POSTGRES_MIN:
        yield Finding("server", "bad", f"{version} is too old", "use PostgreSQL 15 or newer")
    else:
        yield Finding("server", "ok", version)
    if facts.read_only:
        yield Finding("server", "bad", "this is a replica in recovery", "give the URL of the primary")
    yield _schema(facts.schema, f"onefold migrate --url {shlex.quote(without_password(url))}")
    if abs(facts.ahead_ms) > SKEW_MS:
        ahead = "ahead of" if facts.ahead_ms > 0 else "behind"
        yield Finding(
            "clock", "warn", f"the server's clock is {abs(facts.ahead_ms) / 1_000:.1f} s {ahead} this machine's",
            "timedatectl set-ntp true, on whichever is wrong; Onefold goes by the server's",
        )  # fmt: skip
    else:
        yield Finding("clock", "ok", f"within {abs(facts.ahead_ms)} ms of the server's")
    if facts.relayed:
        yield Finding(
            "pooler", "warn", "a pooler, a proxy or NAT stands between: the server sees another connection than ours",
            "PgBouncer: pool_mode = session, or give the server's own URL; in transaction mode LISTEN, session "
            "settings and advisory locks do not hold",
        )  # fmt: skip
    else:
        yield Finding("pooler", "ok", "none between")
    yield from _settings(facts)
    if facts.oldest_transaction_ms > OLD_TRANSACTION_MS:
        yield Finding(
            "transactions", "warn", f"the oldest is open for {facts.oldest_transaction_ms // 1_000} s",
            "SELECT pid, query FROM pg_stat_activity ORDER BY xact_start; consider idle_in_transaction_session_timeout",
        )  # fmt: skip
    if facts.oldest_snapshot_ms > OLD_SNAPSHOT_MS:
        yield Finding(
            "oldest snapshot", "warn", f"open for {facts.oldest_snapshot_ms // 1_000} s: no dead row is removed since",
            "SELECT pid, datname, query FROM pg_stat_activity WHERE backend_xmin IS NOT NULL ORDER BY xact_start; "
            "then SELECT pg_terminate_backend(PID)",
        )  # fmt: skip
    else:
        yield Finding("oldest snapshot", "ok", f"{facts.oldest_snapshot_ms} ms")
    if facts.prepared:
        yield Finding(
            "prepared", "warn", f"{facts.prepared} prepared transactions hold their locks",
            "SELECT * FROM pg_prepared_xacts; COMMIT PREPARED or ROLLBACK PREPARED each",
        )  # fmt: skip
    if not facts.read_only and not facts.schema.missing and not facts.schema.refused and facts.version >= POSTGRES_MIN:
        yield from symptoms(url, without_password(url))


def _settings(facts: inspect.PostgresFacts) -> Iterator[Finding]:
    settings = facts.settings
    room = int(settings.get("max_connections", 0)) - int(settings.get("superuser_reserved_connections", 0))
    left = room - facts.connections
    text = f"{facts.connections} of {room} in use; a process takes up to {CONNECTIONS_OF_A_PROCESS}"
    if left < CONNECTIONS_OF_A_PROCESS:
        yield Finding("connections", "warn", text, "raise max_connections, or lower --pool-max or --workers")
    else:
        yield Finding("connections", "ok", f"{text}, so {left // CONNECTIONS_OF_A_PROCESS} more processes fit")
    for name, meaning in (("fsync", "a crash destroys the database"), ("full_page_writes", "a crash may damage pages")):
        if settings.get(name) == "off":
            yield Finding(name, "bad", f"off: {meaning}", f"ALTER SYSTEM SET {name} = on; then restart")
    if settings.get("synchronous_commit") == "off":
        yield Finding(
            "synchronous_commit", "note", 'off: only durability="everysec" leaves it so; "always" sets it per session',
            "ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf()",
        )
    for name in ("idle_in_transaction_session_timeout", "transaction_timeout"):
        if settings.get(name) == "0":
            yield Finding(
                name, "note", "0: a program that forgets a transaction holds its locks and snapshot for ever",
                f"ALTER ROLE {facts.user} SET {name} = '{'60s' if name.startswith('idle') else '15min'}'",
            )  # fmt: skip
    if settings.get("statement_timeout") not in {None, "0"}:
        yield Finding(
            "statement_timeout", "note", f"{settings['statement_timeout']} ms; migrations may take longer",
            "SET statement_timeout = 0 in the session of a migration",
        )  # fmt: skip
    if settings.get("max_prepared_transactions") == "0":
        yield Finding("max_prepared_transactions", "ok", "0: no transaction can be left prepared and forgotten")


def _schema(state: inspect.SchemaState, fix: str) -> Finding:
    if state.refused:
        return Finding("schema", "bad", state.refused, "upgrade this program to the release that migrated the database")
    if state.missing:
        return Finding("schema", "warn", f"not applied: {', '.join(state.missing)}", fix)
    return Finding("schema", "ok", "up to date")
