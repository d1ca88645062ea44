"""schemathesis against the whole API of a real server: what the description promises is what is answered.

The description gets the blocks' own examples as examples, so that each operation is reached and not only its
refusals. What the description allows is taken, but for the few rules that no schema can say (`BEYOND_A_SCHEMA` in its
hooks).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from http_calls import bearer_for
from processes import SOURCES, Process, environment, running

import onefold
from onefold import Database, tokens
from onefold.cli.answer import is_postgres
from onefold.core.errors import OnefoldError
from onefold.core.route import Route
from onefold.server.binding import Bound
from onefold.server.routes import all_routes

CHECKS = ("--checks", "all")
SEED = 20_260_101
PARTS = 4
FAR = 500  # Characters or items: a limit beyond takes seconds to be reached and passed.


class Suspect:
    """A served database with every block in it, its description with examples, and who may do everything."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        with onefold.connect(url) as db:
            self.token = bearer_for(db)
            self.examples = {Bound(route).name: _arguments(db, route) for route in all_routes()}

    def description(
        self, process: Process, *, keep: Callable[[int], bool] = bool, fields_every: int = 1, far: bool = True
    ) -> dict[str, Any]:
        """The description as the server gives it, of the paths that `keep` chooses by number, from 1.

        The fields that all operations have in common are left to one in `fields_every`: they make half of the cases.
        Without `far` no limit is tried that lies beyond `FAR`.
        """
        status, document = process.request("GET", "/openapi.json", token=self.token)
        assert status == 200
        paths = document["paths"]
        assert sum(len(verbs) for verbs in paths.values()) == len(all_routes())
        for number, path in enumerate(list(paths), 1):
            if not keep(number):
                del paths[path]
                continue
            for operation in paths[path].values():
                _exemplify(operation, self.examples[operation["operationId"]])
                if number % fields_every:
                    operation["parameters"] = [found for found in operation["parameters"] if "$ref" not in found]
        if not far:
            _take_far_limits(document)
        return dict(document)

    def attacked(self, process: Process, document: dict[str, Any], *arguments: str, token: str) -> Finding:
        """What schemathesis says of the server and the description."""
        file, noted = self.folder / "openapi.json", self.folder / "statuses.json"
        file.write_text(json.dumps(document), encoding="utf-8")
        parsed = tokens.parse(self.token)
        assert parsed is not None
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")), "run", str(file), "--no-color", "--warnings", "off",
                "--url", f"http://127.0.0.1:{process.port}", "--seed", str(SEED), "--generation-database", "none",
                *(("--header", f"Authorization: Bearer {token}") if token else ()), *CHECKS, *arguments,
            ],
            capture_output=True, text=True, check=False, cwd=self.folder, timeout=3_000,
            env={
                **environment(), "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), SOURCES]),
                "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "ONEFOLD_TEST_TOKEN_ID": parsed[0],
                "ONEFOLD_TEST_STATUSES": str(noted),
            },
        )  # fmt: skip
        print(done.stdout[-20_000:], done.stderr[-5_000:])
        assert "Traceback" not in process.errors()
        statuses = json.loads(noted.read_text(encoding="utf-8")) if noted.exists() else {}
        return Finding(done.returncode, done.stdout, {name: set(found) for name, found in statuses.items()})


@dataclass
class Finding:
    """Exit code, what it printed, and the statuses that each operation answered with."""

    code: int
    text: str
    statuses: dict[str, set[int]]

    def reached(self) -> float:
        """The share of operations that did their work at least once, and not only refused to."""
        done = {name for name, found in self.statuses.items() if found & {200, 204}}
        print("refused only:", {name: self.statuses[name] for name in sorted(set(self.statuses) - done)})
        return len(done) / len(self.statuses)


def _arguments(db: Database, route: Route) -> dict[str, Any]:
    """A route's example on the ground that all share; where an earlier one stands in its way, on ground of its own."""
    try:
        found = db.run(route.example)
    except OnefoldError:
        found = db.at(f"{route.verb} {route.path}").run(route.example)
    return msgspec.to_builtins(found)


def _exemplify(operation: dict[str, Any], arguments: dict[str, Any]) -> None:
    for parameter in operation["parameters"]:
        if "name" in parameter and arguments.get(parameter["name"]) is not None:
            parameter["example"] = arguments.pop(parameter["name"])
    if "requestBody" in operation:
        operation["requestBody"]["content"]["application/json"]["example"] = arguments


def _take_far_limits(schema: Any) -> None:
    if isinstance(schema, dict):
        for name in ("maxLength", "maxItems"):
            if isinstance(most := schema.get(name), int) and most > FAR:
                del schema[name]
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _take_far_limits(part)


def test_a_part_of_the_api_is_as_described(db_url: str, tmp_path: Path) -> None:
    """Every fourth path with nearly every kind of value, another fourth on each engine; in the soak all on both."""
    suspect = Suspect(db_url, tmp_path)
    part = int(is_postgres(db_url))
    with running(url=db_url, folder=tmp_path) as process:
        document = suspect.description(process, keep=lambda number: number % PARTS == part, fields_every=16, far=False)
        found = suspect.attacked(process, document, "--phases", "examples,coverage", token=suspect.token)
        assert found.code == 0, found.text
        assert found.reached() > 0.9
        closed = suspect.attacked(process, document, "--phases", "examples", token="")
        assert closed.code == 0, closed.text
        assert set().union(*closed.statuses.values()) == {401}
        assert process.end() == 0


def test_a_wrong_description_is_found(tmp_path: Path) -> None:
    """A canary: another type, a field that does not come, a limit that is not kept and one that is lower than said."""
    suspect = Suspect(str(tmp_path / "test.db"), tmp_path)
    with running(url=str(tmp_path / "test.db"), folder=tmp_path) as process:
        document = suspect.description(process)
        paths = ["/v1/events/head", "/v1/tokens", "/v1/audit", "/v1/jobs/paused"]
        document["paths"] = {path: {"get": document["paths"][path]["get"]} for path in paths}
        head, listed, audit, paused = (document["paths"][path]["get"] for path in paths)
        head["responses"]["200"]["content"]["application/json"]["schema"] = {"type": "string"}
        listed["responses"]["200"]["headers"] = {"X-Onefold": {"required": True, "schema": {"type": "string"}}}
        limit = next(parameter for parameter in audit["parameters"] if parameter.get("name") == "limit")
        limit["schema"]["maximum"] = 10
        limit = next(parameter for parameter in paused["parameters"] if parameter.get("name") == "limit")
        limit["schema"]["maximum"] = 5_000
        found = suspect.attacked(process, document, "--phases", "coverage", token=suspect.token)
        assert found.code == 1
        for says in (
            "Response violates schema", "Missing required response headers", "Schema-violating request accepted",
            "Schema-valid request rejected",
        ):  # fmt: skip
            assert says in found.text


@pytest.mark.soak
@pytest.mark.timeout(2_400)
def test_the_whole_api_is_as_described(db_url: str, tmp_path: Path) -> None:
    """All phases, the stateful one too: what one operation answered goes into the next."""
    suspect = Suspect(db_url, tmp_path)
    with running(url=db_url, folder=tmp_path) as process:
        document = suspect.description(process)
        for arguments, token in (
            (("--phases", "examples,coverage"), suspect.token),
            (("--phases", "fuzzing", "--max-examples", "20", "--max-time", "240"), suspect.token),
            (("--phases", "stateful", "--max-examples", "50", "--max-time", "120"), suspect.token),
            (("--phases", "examples,coverage"), ""),
        ):
            found = suspect.attacked(process, document, *arguments, token=token)
            assert found.code == 0, found.text
            if token and "examples" in arguments[1]:
                assert found.reached() > 0.9
            if not token:
                assert set().union(*found.statuses.values()) <= {400, 401, 405, 431}
