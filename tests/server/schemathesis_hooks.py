"""What schemathesis is told about this API; loaded by its process, see test_schemathesis.py."""

from __future__ import annotations

import atexit
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.core.transport import Response
from schemathesis.openapi.checks import RejectedPositiveData

#: The id of the token that it calls with: revoked, it would see nothing but 401 from there on.
OWN_TOKEN_ID = os.environ["ONEFOLD_TEST_TOKEN_ID"]
#: Of these the description gives every limit, so what it allows is taken, by its text at least.
WHOLE = ("jobs.",)
SHORT_MS = 100  # A call with a shorter deadline may be told that this was too short.

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
    if isinstance(failure, RejectedPositiveData):
        whole = case.operation.definition.raw["operationId"].startswith(WHOLE)
        used = response.status_code == 422 and json.loads(response.content)["code"] == "idempotency_mismatch"
        if used or not whole:  # It takes one key for many requests.
            return False
    if response.status_code == 503 and json.loads(response.content)["type"].endswith("#problem-retry"):
        deadline = str((case.headers or {}).get("Onefold-Deadline-Ms", ""))
        if deadline.isdigit() and int(deadline) <= SHORT_MS:
            return False
    phase = getattr(case.meta, "phase", None)
    scenario, place = (getattr(getattr(phase, "data", None), name, None) for name in ("scenario", "parameter_location"))
    # HTTP has a server pass over the fields that it does not know (RFC 9110, 5.1).
    unknown_field = str(getattr(scenario, "value", scenario)) == "object_unexpected_properties" and place is not None
    return not (isinstance(failure, AcceptedNegativeData) and unknown_field and place.value == "header")
