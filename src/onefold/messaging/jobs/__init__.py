"""Jobs: work that begins when your transaction commits, and ends in a transaction. See README.md."""

from onefold.messaging.jobs.attempts import check, claim, fail, finish, give_up, note, snooze
from onefold.messaging.jobs.client import Worker
from onefold.messaging.jobs.kinds import Cancel, Snooze, kind
from onefold.messaging.jobs.leases import rescue
from onefold.messaging.jobs.look import census, dead_letters, get, list_jobs, list_paused, stats, why
from onefold.messaging.jobs.ops import cancel, pause, purge_dead, put, put_many, resume, retry, retry_dead
from onefold.messaging.jobs.records import Attempt, DeadLetters, Job, KindStats, PausedQueue, State
from onefold.messaging.jobs.run import Run, ThreadRun
from onefold.messaging.jobs.upkeep import promote, sweep

__all__ = [
    "Attempt", "Cancel", "DeadLetters", "Job", "KindStats", "PausedQueue", "Run", "Snooze", "State", "ThreadRun",
    "Worker", "cancel", "census", "check", "claim", "dead_letters", "fail", "finish", "get", "give_up", "kind",
    "list_jobs", "list_paused", "note", "pause", "promote", "purge_dead", "put", "put_many", "rescue", "resume",
    "retry", "retry_dead", "snooze", "stats", "sweep", "why",
]  # fmt: skip
