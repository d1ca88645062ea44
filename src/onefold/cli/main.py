"""`onefold`: serve, worker, migrate, backup, restore, export, doctor, token, jobs, events, locks, webhooks, keys, ...

argparse does it: nothing to install, a few milliseconds to import, and the parser can be read
as a table of what there is (`grammar`). Each command's code is imported when it is called.

Exit codes: 0 done; 1 something failed, or `doctor` found a problem; 2 wrong usage or an invalid
request; 3 not found; 4 conflict; 5 denied; 6 try again later; 7 outcome unknown; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from onefold.cli.grammar import parser
from onefold.core.errors import OnefoldError
from onefold.core.printable import printable

EXIT_CODES = {"invalid": 2, "not_found": 3, "conflict": 4, "denied": 5, "retry": 6, "unknown": 7}


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point; ends the process with an exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; answer the exit code. Errors are one line on stderr, never a traceback."""
    options = parser(in_json="--json" in arguments).parse_args(list(arguments))
    options.arguments = list(arguments)
    command = importlib.import_module(f"onefold.cli.{options.module}")
    try:
        code: int | None = getattr(command, options.function)(options)
        print(end="", flush=True)  # There may be no stdout at all.
    except OnefoldError as error:
        return _fail(options, str(error), error.code, EXIT_CODES.get(error.kind, 1))
    except KeyboardInterrupt:
        return _fail(options, "Interrupted.", "interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Whoever read has seen enough.
        return getattr(options, "exit_code", 0)
    except ModuleNotFoundError as error:
        extra = {"uvicorn": "server", "httptools": "server", "psycopg": "postgres"}.get(error.name or "")
        hint = f' Install it with: pip install "onefold[{extra}]"' if extra else ""
        return _fail(options, f"The module {error.name!r} is not installed.{hint}", "not_installed", 1)
    except UnicodeEncodeError:
        return _fail(options, "An argument is no UTF-8.", "invalid", 2)
    except (OSError, ImportError) as error:
        return _fail(options, f"{type(error).__name__}: {error}", "os_error", 1)
    except Exception as error:
        return _fail(options, _one_line(error), "error", 1)
    return code or 0


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _fail(options: argparse.Namespace, text: str, code: str, exit_code: int) -> int:
    text = printable(text)
    if getattr(options, "json", False):
        import msgspec

        text = msgspec.json.encode({"error": {"code": code, "text": text}}).decode()
    else:
        text = f"onefold: {text}"
    print(text, file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    main()
