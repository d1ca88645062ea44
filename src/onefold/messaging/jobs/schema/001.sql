-- A job is one row, and it stands in exactly one of five tables: what it waits for. It moves by
-- DELETE ... RETURNING and INSERT in one transaction, so that two movers cannot both have it, and
-- nothing is updated in place while jobs flow. Common columns:
--   attempt       how often it was started; the number fences its effects
--   failures      starts that count against attempts_max; a snooze or a hand-back does not
--   unique_key    its row in onefold.jobs_unique, or NULL
--   progress      what the handler noted last, JSON, at most 4 KiB
--   error         why the last attempt ended, at most 2,000 characters

-- Waiting for a worker. `seq` only grows and is drawn anew at every entry: workers look for rows
-- above the number that they have dealt with, past the dead index entries of those that left.
-- RETENTION: a row lives until it is claimed or cancelled.
CREATE TABLE onefold.jobs_ready (
    seq          {identity},
    space        INTEGER NOT NULL,
    space_name   TEXT    NOT NULL CHECK (length(space_name) <= 200),
    id           TEXT    NOT NULL CHECK (length(id) BETWEEN 1 AND 60),
    kind         TEXT    NOT NULL CHECK (length(kind) BETWEEN 1 AND 100),
    queue        TEXT    NOT NULL CHECK (length(queue) BETWEEN 1 AND 100),
    priority     INTEGER NOT NULL CHECK (priority BETWEEN -2 AND 2),
    args         TEXT    NOT NULL, -- JSON, at most 64 KiB.
    attempt      INTEGER NOT NULL CHECK (attempt >= 0),
    failures     INTEGER NOT NULL CHECK (failures >= 0),
    attempts_max INTEGER NOT NULL CHECK (attempts_max > 0),
    unique_key   TEXT    CHECK (length(unique_key) BETWEEN 1 AND 200),
    put_at_ms    INTEGER NOT NULL,
    progress     TEXT    CHECK (length(progress) <= 4096),
    error        TEXT    CHECK (length(error) <= 2000),
    ready_at_ms  INTEGER NOT NULL
) {table};
CREATE UNIQUE INDEX onefold_jobs_ready_id ON onefold.jobs_ready (space, id);
-- `seq + 0`, so that no planner takes the primary key for the order within a lane: with another
-- lane full of jobs it would walk through all of them to find none.
-- all spaces: one worker serves them all, lane by lane.
CREATE INDEX onefold_jobs_ready_lane ON onefold.jobs_ready (queue, priority, (seq + 0));

-- Waiting for a time: put with a delay, snoozed, or about to be tried again.
-- RETENTION: a row lives until it is due or cancelled.
CREATE TABLE onefold.jobs_scheduled (
    space        INTEGER NOT NULL,
    space_name   TEXT    NOT NULL CHECK (length(space_name) <= 200),
    id           TEXT    NOT NULL CHECK (length(id) BETWEEN 1 AND 60),
    kind         TEXT    NOT NULL CHECK (length(kind) BETWEEN 1 AND 100),
    queue        TEXT    NOT NULL CHECK (length(queue) BETWEEN 1 AND 100),
    priority     INTEGER NOT NULL CHECK (priority BETWEEN -2 AND 2),
    args         TEXT    NOT NULL,
    attempt      INTEGER NOT NULL CHECK (attempt >= 0),
    failures     INTEGER NOT NULL CHECK (failures >= 0),
    attempts_max INTEGER NOT NULL CHECK (attempts_max > 0),
    unique_key   TEXT    CHECK (length(unique_key) BETWEEN 1 AND 200),
    put_at_ms    INTEGER NOT NULL,
    progress     TEXT    CHECK (length(progress) <= 4096),
    error        TEXT    CHECK (length(error) <= 2000),
    at_ms        INTEGER NOT NULL,
    PRIMARY KEY (space, id)
) {table:clustered};
-- all spaces: what is due is promoted in one sweep.
CREATE INDEX onefold_jobs_scheduled_at ON onefold.jobs_scheduled (at_ms);

-- Being worked on. Invariant: who finishes, fails or writes for a job deletes or locks the row that
-- carries its attempt number. A row whose worker's lease is over will be moved away by anyone.
-- RETENTION: a row lives until the attempt ends or is rescued.
CREATE TABLE onefold.jobs_running (
    space         INTEGER NOT NULL,
    space_name    TEXT    NOT NULL CHECK (length(space_name) <= 200),
    id            TEXT    NOT NULL CHECK (length(id) BETWEEN 1 AND 60),
    kind          TEXT    NOT NULL CHECK (length(kind) BETWEEN 1 AND 100),
    queue         TEXT    NOT NULL CHECK (length(queue) BETWEEN 1 AND 100),
    priority      INTEGER NOT NULL CHECK (priority BETWEEN -2 AND 2),
    args          TEXT    NOT NULL,
    attempt       INTEGER NOT NULL CHECK (attempt > 0),
    failures      INTEGER NOT NULL CHECK (failures >= 0),
    attempts_max  INTEGER NOT NULL CHECK (attempts_max > 0),
    unique_key    TEXT    CHECK (length(unique_key) BETWEEN 1 AND 200),
    put_at_ms     INTEGER NOT NULL,
    progress      TEXT    CHECK (length(progress) <= 4096),
    error         TEXT    CHECK (length(error) <= 2000),
    worker        TEXT    NOT NULL CHECK (length(worker) BETWEEN 1 AND 200),
    claimed_at_ms INTEGER NOT NULL,
    PRIMARY KEY (space, id)
) {table:clustered,hot};
-- all spaces: a dead worker's jobs are found by its name, wherever they are.
CREATE INDEX onefold_jobs_running_worker ON onefold.jobs_running (worker);

-- Given up: out of attempts, or cancelled by its handler. Waits for a person.
-- RETENTION: swept 30 days after it died.
CREATE TABLE onefold.jobs_dead (
    space        INTEGER NOT NULL,
    space_name   TEXT    NOT NULL CHECK (length(space_name) <= 200),
    id           TEXT    NOT NULL CHECK (length(id) BETWEEN 1 AND 60),
    kind         TEXT    NOT NULL CHECK (length(kind) BETWEEN 1 AND 100),
    queue        TEXT    NOT NULL CHECK (length(queue) BETWEEN 1 AND 100),
    priority     INTEGER NOT NULL CHECK (priority BETWEEN -2 AND 2),
    args         TEXT    NOT NULL,
    attempt      INTEGER NOT NULL CHECK (attempt >= 0),
    failures     INTEGER NOT NULL CHECK (failures >= 0),
    attempts_max INTEGER NOT NULL CHECK (attempts_max > 0),
    unique_key   TEXT    CHECK (length(unique_key) BETWEEN 1 AND 200), -- Released; wanted again by a retry.
    put_at_ms    INTEGER NOT NULL,
    progress     TEXT    CHECK (length(progress) <= 4096),
    error        TEXT    CHECK (length(error) <= 2000),
    died_at_ms   INTEGER NOT NULL,
    PRIMARY KEY (space, id)
) {table:clustered};
CREATE INDEX onefold_jobs_dead_kind ON onefold.jobs_dead (space, kind, id);
-- all spaces: swept by age.
CREATE INDEX onefold_jobs_dead_died ON onefold.jobs_dead (died_at_ms);

-- Finished, of kinds that ask to be remembered (`keep_done_ms`); others leave nothing behind.
-- RETENTION: swept once expires_at_ms is over.
CREATE TABLE onefold.jobs_done (
    space         INTEGER NOT NULL,
    id            TEXT    NOT NULL CHECK (length(id) BETWEEN 1 AND 60),
    kind          TEXT    NOT NULL CHECK (length(kind) BETWEEN 1 AND 100),
    queue         TEXT    NOT NULL CHECK (length(queue) BETWEEN 1 AND 100),
    priority      INTEGER NOT NULL CHECK (priority BETWEEN -2 AND 2),
    args          TEXT    NOT NULL,
    attempt       INTEGER NOT NULL CHECK (attempt > 0),
    failures      INTEGER NOT NULL CHECK (failures >= 0),
    attempts_max  INTEGER NOT NULL CHECK (attempts_max > 0),
    put_at_ms     INTEGER NOT NULL,
    done_at_ms    INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    PRIMARY KEY (space, id)
) {table:clustered};
-- all spaces: swept by age.
CREATE INDEX onefold_jobs_done_expires ON onefold.jobs_done (expires_at_ms);

-- A job per key among those ready, scheduled or running. The primary key decides between two puts.
-- RETENTION: deleted with the end of its job.
CREATE TABLE onefold.jobs_unique (
    space INTEGER NOT NULL,
    key   TEXT    NOT NULL CHECK (length(key) BETWEEN 1 AND 200),
    id    TEXT    NOT NULL CHECK (length(id) BETWEEN 1 AND 60),
    PRIMARY KEY (space, key)
) {table:clustered};

-- Queues that are not served for now, each in its space.
-- RETENTION: deleted by `resume`.
CREATE TABLE onefold.jobs_paused (
    space        INTEGER NOT NULL,
    queue        TEXT    NOT NULL CHECK (length(queue) BETWEEN 1 AND 100),
    paused_at_ms INTEGER NOT NULL,
    PRIMARY KEY (space, queue)
) {table:clustered};

-- Workers and their leases: one heartbeat here covers all that a worker runs. A claim holds the row
-- FOR SHARE, a rescue FOR UPDATE, so that no job is claimed for a worker that was given up.
-- RETENTION: deleted by the worker when it stops, or by the rescue of its last job.
CREATE TABLE onefold.jobs_workers (
    space         INTEGER NOT NULL, -- Of the worker's own transactions, not of its jobs.
    worker        TEXT    NOT NULL CHECK (length(worker) BETWEEN 1 AND 200),
    queues        TEXT    NOT NULL, -- ",default,mail,"
    kinds         TEXT    NOT NULL, -- ",receipt.send,"
    started_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    PRIMARY KEY (space, worker)
) {table:clustered,hot};

-- Tells a worker that a job of its was cancelled. The job itself is gone already.
-- RETENTION: deleted when the worker has read it, swept after an hour.
CREATE TABLE onefold.jobs_cancels (
    space   INTEGER NOT NULL,
    id      TEXT    NOT NULL CHECK (length(id) BETWEEN 1 AND 60),
    worker  TEXT    NOT NULL CHECK (length(worker) BETWEEN 1 AND 200),
    attempt INTEGER NOT NULL,
    at_ms   INTEGER NOT NULL,
    PRIMARY KEY (space, id)
) {table:clustered};
-- all spaces: a worker asks for its own.
CREATE INDEX onefold_jobs_cancels_worker ON onefold.jobs_cancels (worker);
