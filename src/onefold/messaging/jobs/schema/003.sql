-- release 0.1 works on this: it neither writes nor reads it, and what it leaves is swept.

-- How attempts failed, of jobs that may run again or are given up. An attempt that ends well writes nothing
-- here, so that the way of most jobs costs nothing more. Never updated.
-- RETENTION: deleted with the end of its job unless that is kept; swept 30 days after the attempt ended.
CREATE TABLE onefold.jobs_failures (
    space         INTEGER NOT NULL,
    id            TEXT    NOT NULL CHECK (length(id) BETWEEN 1 AND 60), -- Of the job.
    attempt       INTEGER NOT NULL CHECK (attempt > 0),
    worker        TEXT    NOT NULL CHECK (length(worker) BETWEEN 1 AND 200),
    started_at_ms INTEGER NOT NULL,
    ended_at_ms   INTEGER NOT NULL,
    error         TEXT    NOT NULL CHECK (length(error) <= 2000),
    PRIMARY KEY (space, id, attempt)
) {table:clustered};
-- all spaces: swept by age.
CREATE INDEX onefold_jobs_failures_ended ON onefold.jobs_failures (ended_at_ms);
