"""`onefold serve`: one server process, or a parent with several."""

from __future__ import annotations

import argparse
import os
import socket
import sys

from onefold.cli.answer import say
from onefold.core.errors import Invalid
from onefold.server import logs
from onefold.server.run import Limits, Server, is_loopback, listen, run_server, url_of
from onefold.server.workers import Link, Workers, command_of

SWITCH_INTERVAL_S = 0.0005  # The writer's thread must not wait 5 ms for the loop's to let go.


def command(options: argparse.Namespace) -> int:
    """Serve until a signal says to end."""
    logs.configure(options.log, access=options.access_log, transactions=options.transaction_log)
    if options.fd is not None:
        return _serve(options, socket.socket(fileno=options.fd))
    if not is_loopback(options.host):
        print(
            f"onefold: warning: listening on {options.host}, so other machines can reach this server. "
            "Requests and tokens travel unencrypted: put TLS in front, and a firewall.",
            file=sys.stderr,
        )
    with listen(options.host, options.port) as listener:
        if options.workers == 1:
            return _serve(options, listener)
        if os.name != "posix":
            raise Invalid("Several server processes need a POSIX system.", workers=options.workers)
        arguments = command_of(options.arguments)
        workers = Workers(
            arguments, listener, options.workers, drain_ms=options.lame_duck_ms + options.drain_ms,
            ready=lambda pids: _announce(options, listener, pids),
        )
        return workers.run()


def _serve(options: argparse.Namespace, listener: socket.socket) -> int:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    from onefold.engine.connect import connect
    from onefold.messaging.webhooks import Keys
    from onefold.server.app import asgi

    keys = Keys.open(options.keys) if options.keys else None
    with connect(options.url, durability=options.durability, pool_max=options.pool_max) as db:
        link = Link(options.link_fd) if options.link_fd is not None else None
        limits = Limits(lame_duck_ms=options.lame_duck_ms, drain_ms=options.drain_ms)
        ready = link.ready if link else lambda: _announce(options, listener, [os.getpid()])
        server = Server(asgi(db, keys=keys), limits, ready=ready)
        if link is not None:
            link.when_gone(server.end_from_thread)
        if options.no_loops:
            run_server(server, listener)
        else:
            from onefold.runtime import Supervisor, all_loops

            with Supervisor(db, all_loops()):
                run_server(server, listener)
    return 0


def _announce(options: argparse.Namespace, listener: socket.socket, pids: list[int]) -> None:
    url = url_of(listener)
    say(
        options,
        {"event": "ready", "url": url, "pids": pids},
        lambda: [
            f"Onefold serves {url}/docs ({len(pids)} process{'es' if len(pids) > 1 else ''}; Ctrl-C ends it).",
            'A token: onefold token create NAME --right "*"',
        ],
    )
