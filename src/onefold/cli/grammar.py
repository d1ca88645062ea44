"""The grammar of the command line: what there is, read as a table. Imports nothing heavy."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import sys
from collections.abc import Callable
from typing import NoReturn

URL_DEFAULT = "onefold.db"
PORT_DEFAULT = 8700
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_FIRST_YEAR = 1970

Add = Callable[..., argparse.ArgumentParser]


class _InJson(argparse.ArgumentParser):
    """Says in JSON, as all else is said with --json, what is wrong with the words."""

    def error(self, message: str) -> NoReturn:
        text = f"{message}. See {self.prog} --help."
        print(json.dumps({"error": {"code": "usage", "text": text}}), file=sys.stderr)
        sys.exit(2)


def _kind(*, in_json: bool) -> type[argparse.ArgumentParser]:
    return _InJson if in_json else argparse.ArgumentParser


def parser(*, in_json: bool = False) -> argparse.ArgumentParser:
    """The whole grammar; `in_json`: errors of usage are told in JSON."""
    top = _kind(in_json=in_json)(
        prog="onefold", description="The back end over one transaction.", allow_abbrev=False,
        epilog="Exit codes: 0 done, 1 failed or unhealthy, 2 invalid, 3 not found, 4 conflict, 5 denied, "
        "6 try later, 7 outcome unknown. The database is --url, else ONEFOLD_URL, else onefold.db here.",
    )  # fmt: skip
    shared = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    shared.add_argument("--json", action="store_true", help="answer in JSON, one document per line")
    shared.add_argument(
        "--url", default=os.environ.get("ONEFOLD_URL") or URL_DEFAULT, help="a file's path or postgresql://..."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, text: str, to: argparse._SubParsersAction[argparse.ArgumentParser] = commands, **where: str
    ) -> argparse.ArgumentParser:
        found = to.add_parser(name, help=text, description=text, parents=[shared], allow_abbrev=False)
        found.set_defaults(module=where.get("module", name), function=where.get("function", "command"))
        return found

    _serve(add("serve", "Serve all blocks over HTTP."))
    worker = add("worker", "Run a worker of your program: onefold worker shop.worker:worker")
    worker.add_argument("target", metavar="MODULE:OBJECT", help="where the Worker is")
    worker.add_argument("--no-loops", action="store_true", help="leave background loops to other processes")
    worker.add_argument("--log", choices=("text", "json"), help="form of the log (text on a terminal, else json)")
    migrate = add("migrate", "Bring the schema of the database up to this release.")
    migrate.add_argument("--sql", action="store_true", help="print PostgreSQL's SQL instead, for a DBA to run")
    doctor = add("doctor", "Look for what is wrong and say how to mend it. Changes nothing.")
    doctor.add_argument("--check", action="store_true", help="read the whole file for damage (SQLite); takes its time")
    _tokens(add, commands)
    _sessions(add, commands)
    _jobs(add, commands)
    _events(add, commands)
    _locks(add, commands)
    _webhooks(add, commands)
    _keys(add, commands)
    bench = add("bench", "Measure: all benches in a checkout, else the disk and a commit here.")
    bench.add_argument("--seconds", type=_span, default=2.0, help="for each measurement (2)")
    bench.add_argument("names", nargs="*", metavar="NAME", help="in a checkout: which benches")
    _copies(add)
    _check(add("check", "Check a recorded history of operations: 0 valid, 1 invalid, 2 unknown."))
    add("version", "Say which versions run here.")
    return top


def _copies(add: Add) -> None:
    backup = add("backup", "Copy the database, in use or not, and read the copy back.", function="backup")
    backup.add_argument("file", metavar="FILE", help="the backup; what it holds is noted in FILE.json")
    backup.add_argument("--force", action="store_true", help="replace a backup of this name")
    backup.add_argument("--dry-run", action="store_true", help="only say whether it could be, and how much it is")
    export = add("export", "Write all rows of blocks to stdout, from one snapshot.")
    export.add_argument("--jsonl", action="store_true", required=True, help="the form: a JSON object for each row")
    export.add_argument("--block", dest="blocks", action="append", default=[], help="may stand several times (all)")
    export.add_argument("--space", help="only rows of it (all)")
    restore = add("restore", "Make the database at --url out of a backup.", module="backup", function="restore")
    restore.add_argument("file", metavar="FILE", help="a backup")
    restore.add_argument("--force", action="store_true", help="replace the database, which nobody may have open")
    restore.add_argument("--dry-run", action="store_true", help="only read the backup, and say what would be replaced")


def _check(check: argparse.ArgumentParser) -> None:
    check.add_argument("file", metavar="FILE", help="EDN or JSON of Jepsen's form, whole or line by line")
    check.add_argument("--model", help="register, list-append, bank, ... (what the operations look like)")
    check.add_argument("--deadline-s", type=float, default=60.0, help="then the verdict is unknown (60)")
    check.add_argument("--svg", metavar="OUT", help="draw the first anomaly into this file")
    check.add_argument("--consistency-model", help="of transactions, the one to hold (strict-serializable)")
    check.add_argument("--whole", action="store_true", help="of transactions: the file has every write that there was")
    check.add_argument(
        "--assume", action="append", default=[], metavar="WHAT",
        help="rw-register: wfr-keys, sequential-keys or linearizable-keys; may stand several times",
    )  # fmt: skip
    check.add_argument("--independent", action="store_true", help="linearizability: values are [key value]")
    check.add_argument("--initial", metavar="EDN", help="registers, counter: what they hold at first (nil, or else 0)")
    check.add_argument("--permits", type=int, help="semaphore: how many there are (1)")
    check.add_argument("--total", type=int, help="bank: of all balances (that of the first read)")
    check.add_argument("--allow-negative", action="store_true", help="bank: balances may be below zero")
    check.add_argument("--linearizable", action="store_true", help="set-full: stale elements are anomalies too")


def _serve(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--host", default="127.0.0.1", help="where to listen (127.0.0.1: this machine only)")
    serve.add_argument("--port", type=_port, default=PORT_DEFAULT, help=f"0 takes a free one ({PORT_DEFAULT})")
    serve.add_argument("--workers", type=_workers, default=1, help="server processes on this database (1)")
    serve.add_argument("--durability", choices=("always", "everysec"), default="always", help="(always)")
    serve.add_argument("--pool-max", type=int, default=12, help="PostgreSQL connections of each process (12)")
    serve.add_argument("--lame-duck-ms", type=_ms, default=500, help="not ready, but serving, after SIGTERM (500)")
    serve.add_argument("--drain-ms", type=_ms, default=20_000, help="for running requests at the end (20000)")
    serve.add_argument("--no-loops", action="store_true", help="leave background loops to other processes")
    serve.add_argument("--keys", metavar="FILE", help="the key file of webhooks; endpoints must name a key of it (any)")
    serve.add_argument("--access-log", action="store_true", help="one line for each request")
    serve.add_argument("--transaction-log", action="store_true", help="one line for each transaction of a request")
    serve.add_argument("--log", choices=("text", "json"), help="form of the log (text on a terminal, else json)")
    serve.add_argument("--fd", type=int, help=argparse.SUPPRESS)  # The parent's socket, in a worker.
    serve.add_argument("--link-fd", type=int, help=argparse.SUPPRESS)


def _token_create(create: argparse.ArgumentParser) -> None:
    create.add_argument("name", help="what people call it")
    create.add_argument(
        "--right", dest="rights", action="append", required=True, metavar="RIGHT",
        help='"booking:write", "booking:*" or "*"; may stand several times',
    )  # fmt: skip
    create.add_argument("--space", default="", help="the one space that it opens (the root space)")
    create.add_argument("--ttl-days", dest="ttl_ms", type=_days, help="when it ends (never)")


def _group(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    top = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    return top.add_subparsers(required=True, metavar="ACTION")


def _tokens(add: Add, commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    to = _group(commands, "token", "Create, list and revoke bearer tokens.")
    _token_create(add("create", "Create a token and show its secret, once.", to, module="token", function="create"))
    add("list", "List all tokens.", to, module="token", function="list_all")
    revoke = add("revoke", "Revoke a token; servers notice within two seconds.", to, module="token", function="revoke")
    revoke.add_argument("token_id", metavar="ID")
    revoke.add_argument("--dry-run", action="store_true", help="only say which token it would be")


def _sessions(add: Add, commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    to = _group(commands, "sessions", "See who is logged in to the dashboard, and end a session.")
    _paged(add("ls", "List the sessions that are not over.", to, module="sessions", function="ls"))
    end = add("end", "End a session at once; its token may log in again.", to, module="sessions", function="end")
    end.add_argument("session_id", metavar="ID")
    end.add_argument("--dry-run", action="store_true", help="only say which session it would be")


def _jobs(add: Add, commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    to = _group(commands, "jobs", "Look at jobs and steer them, straight in the database.")
    states = ("ready", "scheduled", "running", "dead", "done")

    def job(name: str, text: str) -> argparse.ArgumentParser:
        return _spaced(add(name, text, to, module="jobs", function=name))

    ls = _paged(job("ls", "List jobs, state by state, in the order in which they were put."))
    ls.add_argument("--state", choices=states, help="only this one (all)")
    ls.add_argument("--kind", help="only this one (all)")
    job("stats", "Count jobs by kind and state.")
    job("why", "Say in one sentence why a job is not running.").add_argument("job_id", metavar="ID")
    _paged(job("failures", "List how the attempts of a job failed.")).add_argument("job_id", metavar="ID")
    retry = _changing(job("retry", "Run dead or scheduled jobs now: by id, or all dead ones of a kind."))
    retry.add_argument("ids", nargs="*", metavar="ID")
    retry.add_argument("--kind", help="instead of ids: all dead ones of it")
    retry.add_argument("--error", metavar="PRINT", help="with --kind: only those with this error, see the dashboard")
    cancel = _changing(job("cancel", "Cancel jobs that wait or run: by id, or all of a kind in a state."))
    cancel.add_argument("ids", nargs="*", metavar="ID")
    cancel.add_argument("--kind", help="instead of ids: all of it")
    cancel.add_argument("--state", choices=states[:3], default="ready", help="with --kind: those in it (ready)")
    purge = _changing(job("purge", "Forget the dead jobs of a kind, for good."))
    purge.add_argument("--kind", required=True)
    purge.add_argument("--error", metavar="PRINT", help="only those with this error")
    job("pause", "Let nothing of a queue begin; what runs goes on.").add_argument("queue", metavar="QUEUE")
    job("resume", "Let a paused queue go on.").add_argument("queue", metavar="QUEUE")


def _events(add: Add, commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    to = _group(commands, "events", "Watch events, and let a subscription go on.")
    tail = _spaced(add("tail", "Print events as they happen.", to, module="events", function="tail"))
    tail.add_argument("--after", type=_position, metavar="POSITION", help="from there on (only what comes from now on)")
    tail.add_argument("--category", help='only streams of it: "order" for order/7 (all)')
    tail.add_argument("--no-follow", dest="follow", action="store_false", help="end where the events end now")
    about = "Have a subscription try again what it parked; its handler is in your program, which must run."
    again = _spaced(add("retry-parked", about, to, module="events", function="retry_parked"))
    again.add_argument("name", metavar="SUBSCRIPTION")
    again.add_argument("--stream", help="only of this stream: order/7 (all)")
    about = "Give up what a subscription parked of a stream, so that the stream goes on."
    drop = _spaced(add("drop-parked", about, to, module="events", function="drop_parked"))
    drop.add_argument("name", metavar="SUBSCRIPTION")
    drop.add_argument("--stream", required=True, help="of which stream: order/7")
    drop.add_argument("--dry-run", action="store_true", help="only say how many it would be, and show some")


def _locks(add: Add, commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    to = _group(commands, "locks", "Look at locks, and free one.")
    ls = _paged(_spaced(add("ls", "List the locks that are held now.", to, module="locks", function="ls")))
    ls.add_argument("--prefix", default="", help="only names that begin with it (all)")
    release = _spaced(add("release", "Take a lock from its holder.", to, module="locks", function="release"))
    release.add_argument("name", metavar="NAME")
    release.add_argument("--reason", required=True, help="goes into the fact locks.forced")
    release.add_argument("--dry-run", action="store_true", help="only say who holds it")


def _webhooks(add: Add, commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    to = _group(commands, "webhooks", "Look at endpoints and what was delivered, and deliver it again.")

    def hook(name: str, text: str, *, endpoint: bool = True) -> argparse.ArgumentParser:
        command = _spaced(add(name, text, to, module="webhooks", function=name))
        if endpoint:
            command.add_argument("endpoint_id", metavar="ENDPOINT")
        return command

    _paged(hook("ls", "List endpoints and how they are.", endpoint=False))
    create = hook("create", "Make an endpoint and show its secret, once.", endpoint=False)
    create.add_argument("to", metavar="URL", help="where messages go")
    create.add_argument("--keys", metavar="FILE", required=True, help="the key file; its newest key is taken")
    create.add_argument(
        "--type", dest="types", action="append", default=[], metavar="TYPE",
        help='"order.placed" or "order.*"; may stand several times (all)',
    )  # fmt: skip
    create.add_argument("--concurrency", type=_concurrency, default=8, help="requests at once, 1 to 100 (8)")
    create.add_argument("--per-second", type=_per_second, default=0, help="up to 10,000; 0 for no limit (0)")
    _paged(hook("attempts", "List what was tried for an endpoint."))
    _paged(hook("failed", "List what was given up for an endpoint."))
    _paged(hook("pending", "List what waits for an endpoint or is on its way."))
    replay = _changing(hook("replay", "Deliver again: by id, all that was given up, or all that was sent in a time."))
    replay.add_argument("messages", nargs="*", metavar="MESSAGE")
    replay.add_argument("--failed", action="store_true", help="instead of ids: all that was given up")
    replay.add_argument("--since", type=_moment, metavar="TIME", help="instead of ids: sent from then on ...")
    replay.add_argument("--until", type=_moment, metavar="TIME", help="... and before then; times as 2026-11-27T08:00Z")
    rotate = hook("rotate", "Give an endpoint a new secret and show it, once; the one before signs beside it.")
    rotate.add_argument("--keys", metavar="FILE", required=True, help="the key file; its newest key is taken")
    rotate.add_argument(
        "--overlap-hours", dest="overlap_ms", type=_hours, default=24 * _HOUR_MS,
        help="how long both secrets sign (24); 0 when the old one was stolen",
    )  # fmt: skip
    hook("enable", "Let messages go to an endpoint again.")
    disable = hook("disable", "Send nothing to an endpoint until it is enabled.")
    disable.add_argument("--reason", required=True, help="stands with the endpoint, for people")
    delete = hook("delete", "Remove an endpoint for good, with what still waits for it.")
    delete.add_argument("--dry-run", action="store_true", help="only say which endpoint it would be, and what waits")


def _keys(add: Add, commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    to = _group(commands, "keys", "Make, rotate and tidy the file that secrets of webhooks are derived from.")

    def key(name: str, text: str) -> argparse.ArgumentParser:
        command = add(name, text, to, module="keys", function=name)
        command.add_argument("file", metavar="FILE", help="the key file, its owner's alone (mode 600)")
        return command

    key("create", "Make a key file; one that is there stays as it is.")
    key("rotate", "Add a key, which is the newest then; running processes take it by themselves.")
    ls = key("ls", "List the keys by fingerprint.")
    ls.add_argument("--uses", action="store_true", help="count the endpoints at --url that need each")
    retire = key("retire", "Take a key out, when no endpoint at --url needs it.")
    retire.add_argument("key_id", metavar="KEY")
    retire.add_argument("--dry-run", action="store_true", help="only say whether it could be")


def _spaced(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--space", default="", help="in which one (the root space)")
    return command


def _paged(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--after", help="what the page before said")
    command.add_argument("--limit", type=_limit, default=100, help="1 to 1,000 (100)")
    return command


def _changing(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--dry-run", action="store_true", help="only say how many it would be, and show some")
    return command


def _number(text: str, least: int, most: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 12 or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"a whole number from {least} to {most}")
    return int(text)


def _port(text: str) -> int:
    return _number(text, 0, 65_535)


def _workers(text: str) -> int:
    return _number(text, 1, 64)


def _limit(text: str) -> int:
    return _number(text, 1, 1_000)


def _concurrency(text: str) -> int:
    return _number(text, 1, 100)


def _per_second(text: str) -> int:
    return _number(text, 0, 10_000)


def _position(text: str) -> int:
    return _number(text, 0, 999_999_999_999)


def _ms(text: str) -> int:
    return _number(text, 0, 600_000)


def _moment(text: str) -> int:
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None or found.year < _FIRST_YEAR:
        raise argparse.ArgumentTypeError("a time with its zone, such as 2026-11-27T08:00Z")
    return int(found.timestamp() * 1_000)


def _days(text: str) -> int:
    return _number(text, 1, 3_650) * _DAY_MS


def _hours(text: str) -> int:
    return _number(text, 0, 31 * 24) * _HOUR_MS


def _span(text: str) -> float:
    return float(_number(text, 1, 600))
