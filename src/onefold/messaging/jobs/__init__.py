"""Jobs: work that begins when your transaction commits, and ends in a transaction. See README.md."""

from onefold.messaging.jobs.attempts import check, claim, fail, finish, give_up, note, snooze
from onefold.messaging.jobs.bulk import Step, cancel_many, purge_dead, retry_dead
from onefold.messaging.jobs.client import Worker
from onefold.messaging.jobs.counts import census, count_live, dead_letters, stats
from onefold.messaging.jobs.kinds import NAME_LENGTH_MAX, Cancel, Snooze, kind
from onefold.messaging.jobs.leases import rescue
from onefold.messaging.jobs.listing import list_jobs
from onefold.messaging.jobs.look import get, list_failures, list_paused, why
from onefold.messaging.jobs.ops import cancel, pause, put, put_many, resume, retry
from onefold.messaging.jobs.records import (
    ID_LENGTH_MAX,
    Attempt,
    Counted,
    DeadLetters,
    Failure,
    Job,
    KindStats,
    PausedQueue,
    State,
)
from onefold.messaging.jobs.run import Run, ThreadRun
from onefold.messaging.jobs.survey import (
    FINGERPRINT_LENGTH,
    FailureGroup,
    Glance,
    LiveWorker,
    Preview,
    deaths_per_minute,
    failure_groups,
    fingerprint_of,
    glance,
    live_workers,
    overdue_ms,
    preview_dead,
)
from onefold.messaging.jobs.upkeep import promote, sweep

__all__ = [
    "FINGERPRINT_LENGTH", "ID_LENGTH_MAX", "NAME_LENGTH_MAX",
    "Attempt", "Cancel", "Counted", "DeadLetters", "Failure", "FailureGroup", "Glance", "Job", "KindStats",
    "LiveWorker", "PausedQueue", "Preview", "Run", "Snooze", "State", "Step", "ThreadRun", "Worker", "cancel",
    "cancel_many", "census", "check", "claim", "count_live", "dead_letters", "deaths_per_minute", "fail",
    "failure_groups", "fingerprint_of", "finish", "get", "give_up", "glance", "kind", "list_failures", "list_jobs",
    "list_paused", "live_workers", "note", "overdue_ms", "pause", "preview_dead", "promote", "purge_dead", "put",
    "put_many", "rescue", "resume", "retry", "retry_dead", "snooze", "stats", "sweep", "why",
]  # fmt: skip
