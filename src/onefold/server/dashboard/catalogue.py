"""All pages and all actions. A page for another block adds its lines here."""

from __future__ import annotations

from onefold.server.dashboard import failures, job, jobs, locks, money, now, people, streams, webhooks
from onefold.server.dashboard.views import Action, View

#: By path, in the order of the navigation.
VIEWS: dict[str, View] = {
    "now": View("Now", "", now.prepare),
    "jobs": View("Jobs", "jobs:read", jobs.prepare),
    "failures": View("Failures", "jobs:read", failures.prepare),
    "job": View("Job", "jobs:read", job.prepare, listed=False, under="jobs"),
    "bulk": View("Many jobs", "jobs:read", failures.prepare_bulk, listed=False, live=False, under="failures"),
    "streams": View("Streams", "events:read", streams.prepare),
    "parked": View("Parked events", "events:read", streams.prepare_parked, listed=False, under="streams"),
    "webhooks": View("Webhooks", "webhooks:read", webhooks.prepare),
    "endpoint": View("Endpoint", "webhooks:read", webhooks.prepare_endpoint, listed=False, under="webhooks"),
    "locks": View("Locks", "locks:read", locks.prepare),
    "ledger": View("Ledger", "ledger:read", money.prepare_ledger),
    "booking": View("Booking", "booking:read", money.prepare_booking),
    "sessions": View("Sessions", "sessions:read", people.prepare_sessions, of_root=True),
    "audit": View("Audit", "audit:read", people.prepare_audit),
}

#: By the last part of their path, behind "do/".
ACTIONS: dict[str, Action] = {
    "jobs.retry": Action("jobs:write", job.retry),
    "jobs.cancel": Action("jobs:write", job.cancel),
    "jobs.bulk": Action("jobs:write", failures.act_on_many),
    "jobs.pause": Action("jobs:write", jobs.pause),
    "jobs.resume": Action("jobs:write", jobs.resume),
    "events.retry": Action("events:write", streams.retry),
    "events.drop": Action("events:write", streams.drop),
    "webhooks.enable": Action("webhooks:write", webhooks.enable),
    "webhooks.disable": Action("webhooks:write", webhooks.disable),
    "webhooks.replay": Action("webhooks:write", webhooks.replay),
    "webhooks.replay_failed": Action("webhooks:write", webhooks.replay_failed),
    "locks.release": Action("locks:admin", locks.release),
    "sessions.end": Action("sessions:write", people.end_session, of_root=True),
}
