"""What schemathesis is told about this API; loaded by its process, see test_schemathesis.py."""

from __future__ import annotations

import atexit
import json
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.core.transport import Response
from schemathesis.openapi.checks import RejectedPositiveData, UseAfterFree

#: The id of the token that it calls with: revoked, it would see nothing but 401 from there on.
OWN_TOKEN_ID = os.environ["ONEFOLD_TEST_TOKEN_ID"]
#: What it allows is taken, by its text at least. Only this is refused beyond it, because no JSON Schema can say it:
#: what depends on other fields or on what is stored, and what is said of all parts of any JSON. Each has its code.
BEYOND_A_SCHEMA = {
    "events.append_json": {"nul", "integer_range"},  # Anywhere in the data, which is any JSON.
    "webhooks.send_message": {"nul", "integer_range"},
    "webhooks.create": {"url_host", "header_reserved", "headers"},  # Names in small letters or capitals; sizes in sum.
    "webhooks.update": {"url_host", "header_reserved", "headers"},
    "webhooks.replay_range": {"range"},  # Ends after it begins, and before tomorrow.
    "booking.add_venue": {"twice", "rows", "aisles"},  # Names unique; rows in sum; aisles after seats that are there.
    "booking.add_show": {"prices", "currency", "sale"},  # Of the venue's categories; alike; ends after it begins.
    "booking.seat_map_since": {"version"},  # One of another show.
    "ledger.open_account": {"overdraft"},  # None for an unlimited one.
    "ledger.transfer": {"same_account", "currency"},  # Two accounts; what they hold.
    "ledger.pend": {"same_account", "currency"},
    "ledger.post": {"exceeds_pending", "currency"},
    "ledger.history": {"cursor"},  # Which kind of cursor depends on the account.
    "payments.authorise": {"same_account", "currency"},
    "payments.capture": {"exceeds_authorised"},
    "payments.refund": {"currency"},
}
#: To a schema 1.0 is an integer; here a whole number has digits only.
_DECIMALS = re.compile(r"Expected `int[^`]*`, got `float`")
SHORT_MS = 1_000  # A call with a shorter deadline may be told that this was too short; the machine may be busy.

_statuses: defaultdict[str, set[int]] = defaultdict(set)


@atexit.register
def note() -> None:
    """Leave what each operation answered for the test to judge."""
    found = {name: sorted(statuses) for name, statuses in _statuses.items()}
    Path(os.environ["ONEFOLD_TEST_STATUSES"]).write_text(json.dumps(found), encoding="utf-8")


@schemathesis.hook
def before_call(context: Any, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Let it not revoke the token in its own hand; it finds that in the list of tokens."""
    del context, kwargs
    if (case.path_parameters or {}).get("token_id") == OWN_TOKEN_ID:
        case.path_parameters["token_id"] = "token_0"


@schemathesis.hook
def after_call(context: Any, case: schemathesis.Case, response: Response) -> None:
    """Note the status."""
    del context
    _statuses[case.operation.label].add(response.status_code)


@schemathesis.hook
def filter_failure(context: Any, failure: Failure, case: schemathesis.Case, response: Response) -> bool:
    """Drop what is as it should be, and keep all else."""
    del context
    if isinstance(failure, (RejectedPositiveData, AcceptedNegativeData)) and response.status_code == 413:
        return False  # Of a body's bytes the description speaks in words.
    if isinstance(failure, RejectedPositiveData):
        beyond = BEYOND_A_SCHEMA.get(case.operation.definition.raw["operationId"], set())
        problem = json.loads(response.content)
        # It takes one key for many requests.
        if problem["code"] in beyond | {"idempotency_mismatch"} or _DECIMALS.match(problem.get("detail", "")):
            return False
    if response.status_code == 503 and json.loads(response.content)["type"].endswith("#problem-retry"):
        deadline = str((case.headers or {}).get("Onefold-Deadline-Ms", ""))
        if deadline.isdigit() and int(deadline) <= SHORT_MS:
            return False
    if isinstance(failure, UseAfterFree) and case.operation.path.endswith("/attempts"):
        return False  # What was tried is told of endpoints that were deleted, too.
    phase = getattr(case.meta, "phase", None)
    scenario, place = (getattr(getattr(phase, "data", None), name, None) for name in ("scenario", "parameter_location"))
    # HTTP has a server pass over the fields that it does not know (RFC 9110, 5.1).
    unknown_field = str(getattr(scenario, "value", scenario)) == "object_unexpected_properties" and place is not None
    return not (isinstance(failure, AcceptedNegativeData) and unknown_field and place.value == "header")
