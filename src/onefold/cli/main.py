"""`onefold`: serve, worker, migrate, backup, restore, doctor, token, bench, version.

argparse does it: nothing to install, a few milliseconds to import, and the parser can be read
as a table of what there is. Each command's code is imported when it is called.

Exit codes: 0 done; 1 something failed, or `doctor` found a problem; 2 wrong usage or an invalid
request; 3 not found; 4 conflict; 5 denied; 6 try again later; 7 outcome unknown; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from onefold.core.errors import OnefoldError

URL_DEFAULT = "onefold.db"
PORT_DEFAULT = 8700
EXIT_CODES = {"invalid": 2, "not_found": 3, "conflict": 4, "denied": 5, "retry": 6, "unknown": 7}
_DAY_MS = 86_400_000


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point; ends the process with an exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; answer the exit code. Errors are one line on stderr, never a traceback."""
    options = parser().parse_args(list(arguments))
    options.arguments = list(arguments)
    command = importlib.import_module(f"onefold.cli.{options.module}")
    try:
        code: int | None = getattr(command, options.function)(options)
        sys.stdout.flush()
    except OnefoldError as error:
        return _fail(options, str(error), error.code, EXIT_CODES.get(error.kind, 1))
    except KeyboardInterrupt:
        return _fail(options, "Interrupted.", "interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Whoever read has seen enough.
        return 0
    except ModuleNotFoundError as error:
        extra = {"uvicorn": "server", "httptools": "server", "psycopg": "postgres"}.get(error.name or "")
        hint = f' Install it with: pip install "onefold[{extra}]"' if extra else ""
        return _fail(options, f"The module {error.name!r} is not installed.{hint}", "not_installed", 1)
    except (OSError, ImportError) as error:
        return _fail(options, f"{type(error).__name__}: {error}", "os_error", 1)
    except Exception as error:
        return _fail(options, _one_line(error), "error", 1)
    return code or 0


def parser() -> argparse.ArgumentParser:
    """The whole grammar."""
    top = argparse.ArgumentParser(
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
    migrate = add("migrate", "Bring the schema of the database up to this release.")
    migrate.add_argument("--sql", action="store_true", help="print PostgreSQL's SQL instead, for a DBA to run")
    doctor = add("doctor", "Look for what is wrong and say how to mend it. Changes nothing.")
    doctor.add_argument("--check", action="store_true", help="read the whole file for damage (SQLite); takes its time")
    token = top_token = commands.add_parser("token", help="Create, list and revoke bearer tokens.", allow_abbrev=False)
    to = token.add_subparsers(required=True, metavar="ACTION")
    _token_create(add("create", "Create a token and show its secret, once.", to, module="token", function="create"))
    add("list", "List all tokens.", to, module="token", function="list_all")
    revoke = add("revoke", "Revoke a token; servers notice within two seconds.", to, module="token", function="revoke")
    revoke.add_argument("token_id", metavar="ID")
    top_token.set_defaults(module="token")
    bench = add("bench", "Measure: all benches in a checkout, else the disk and a commit here.")
    bench.add_argument("--seconds", type=_span, default=2.0, help="for each measurement (2)")
    bench.add_argument("names", nargs="*", metavar="NAME", help="in a checkout: which benches")
    _copies(add)
    add("version", "Say which versions run here.")
    return top


def _copies(add: Callable[..., argparse.ArgumentParser]) -> None:
    backup = add("backup", "Copy the database, in use or not, and read the copy back.", function="backup")
    backup.add_argument("file", metavar="FILE", help="the backup; what it holds is noted in FILE.json")
    backup.add_argument("--force", action="store_true", help="replace a backup of this name")
    restore = add("restore", "Make the database at --url out of a backup.", module="backup", function="restore")
    restore.add_argument("file", metavar="FILE", help="a backup")
    restore.add_argument("--force", action="store_true", help="replace the database, which nobody may have open")


def _serve(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--host", default="127.0.0.1", help="where to listen (127.0.0.1: this machine only)")
    serve.add_argument("--port", type=_port, default=PORT_DEFAULT, help=f"0 takes a free one ({PORT_DEFAULT})")
    serve.add_argument("--workers", type=_workers, default=1, help="server processes on this database (1)")
    serve.add_argument("--durability", choices=("always", "everysec"), default="always", help="(always)")
    serve.add_argument("--pool-max", type=int, default=12, help="PostgreSQL connections of each process (12)")
    serve.add_argument("--lame-duck-ms", type=_ms, default=500, help="not ready, but serving, after SIGTERM (500)")
    serve.add_argument("--drain-ms", type=_ms, default=20_000, help="for running requests at the end (20000)")
    serve.add_argument("--no-loops", action="store_true", help="leave background loops to other processes")
    serve.add_argument("--access-log", action="store_true", help="one line for each request")
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


def _number(text: str, least: int, most: int) -> int:
    if not text.isascii() or not text.isdigit() or not least <= int(text[:12]) <= most:
        raise argparse.ArgumentTypeError(f"a whole number from {least} to {most}")
    return int(text)


def _port(text: str) -> int:
    return _number(text, 0, 65_535)


def _workers(text: str) -> int:
    return _number(text, 1, 64)


def _ms(text: str) -> int:
    return _number(text, 0, 600_000)


def _days(text: str) -> int:
    return _number(text, 1, 3_650) * _DAY_MS


def _span(text: str) -> float:
    return float(_number(text, 1, 600))


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _fail(options: argparse.Namespace, text: str, code: str, exit_code: int) -> int:
    if getattr(options, "json", False):
        import msgspec

        text = msgspec.json.encode({"error": {"code": code, "text": text}}).decode()
    else:
        text = f"onefold: {text}"
    print(text, file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    main()
