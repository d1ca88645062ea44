-- PostgreSQL: one row per stream, its last version. Invariant: `version` is the number of events ever
-- appended to the stream; the row is written before they are, so it decides between concurrent
-- appends. On SQLite one writer at a time may look at the events themselves.
-- RETENTION: kept for ever, as the events are.
-- engine: postgres
CREATE TABLE onefold.event_streams (
    space   INTEGER NOT NULL,
    stream  TEXT    NOT NULL CHECK (length(stream) BETWEEN 1 AND 200),
    version INTEGER NOT NULL CHECK (version > 0),
    appends INTEGER NOT NULL CHECK (appends > 0), -- 1 tells an insert from an update.
    PRIMARY KEY (space, stream)
) {table:clustered,hot};

-- The events. Never updated. Invariants: versions of a stream count 1, 2, 3 without gaps; within
-- a stream `seq` rises with the version (it is drawn while the stream's row is locked).
-- `seq` is the order of writing, not of committing: nobody reads by it but the sequencer.
-- RETENTION: kept for ever.
-- engine: postgres
CREATE TABLE onefold.events (
    seq          {identity},
    space        INTEGER NOT NULL,
    stream       TEXT    NOT NULL CHECK (length(stream) BETWEEN 1 AND 200),
    version      INTEGER NOT NULL CHECK (version > 0),
    category     TEXT    NOT NULL CHECK (length(category) <= 200), -- The stream up to its first "/".
    kind         TEXT    NOT NULL CHECK (length(kind) BETWEEN 1 AND 100),
    kind_version INTEGER NOT NULL CHECK (kind_version > 0),
    data         TEXT    NOT NULL, -- JSON, at most 64 KiB.
    at_ms        INTEGER NOT NULL,
    causation    TEXT    CHECK (length(causation) BETWEEN 1 AND 250),
    correlation  TEXT    CHECK (length(correlation) BETWEEN 1 AND 250),
    xid          INTEGER, -- The writing transaction, ...
    system       INTEGER, -- ... and the cluster whose transactions that number counts. NULL: brought from SQLite.
    UNIQUE (space, stream, version)
) {table};

-- The events, in the order in which they are read: one writer at a time may number them as it writes
-- them, so `seq` is the position, and each B-tree less is a page less per commit. Never updated.
-- Invariants: versions of a stream, and `seq` of a space, count 1, 2, 3 without gaps.
-- RETENTION: kept for ever.
-- engine: sqlite
CREATE TABLE onefold.events (
    space        INTEGER NOT NULL,
    seq          INTEGER NOT NULL CHECK (seq > 0),
    stream       TEXT    NOT NULL CHECK (length(stream) BETWEEN 1 AND 200),
    version      INTEGER NOT NULL CHECK (version > 0),
    category     TEXT    NOT NULL CHECK (length(category) <= 200), -- The stream up to its first "/".
    kind         TEXT    NOT NULL CHECK (length(kind) BETWEEN 1 AND 100),
    kind_version INTEGER NOT NULL CHECK (kind_version > 0),
    data         TEXT    NOT NULL, -- JSON, at most 64 KiB.
    at_ms        INTEGER NOT NULL,
    causation    TEXT    CHECK (length(causation) BETWEEN 1 AND 250),
    correlation  TEXT    CHECK (length(correlation) BETWEEN 1 AND 250),
    PRIMARY KEY (space, seq),
    UNIQUE (space, stream, version)
) {table:clustered};

CREATE INDEX onefold_events_correlation ON onefold.events (space, correlation, seq) WHERE correlation IS NOT NULL;
-- engine: sqlite
CREATE INDEX onefold_events_category ON onefold.events (space, category, seq);
-- engine: postgres
-- all spaces: the sequencer numbers them in one sweep.
CREATE INDEX onefold_events_xid ON onefold.events (system, xid) WHERE xid IS NOT NULL;

-- The order in which events are read. Append-only. Invariants: positions of a space count 1, 2, 3
-- without gaps, an event has at most one, and a reader who saw a position has seen all before it.
-- RETENTION: kept for ever, as the events are.
-- engine: postgres
CREATE TABLE onefold.event_positions (
    space    INTEGER NOT NULL,
    pos      INTEGER NOT NULL CHECK (pos > 0),
    seq      INTEGER NOT NULL,
    category TEXT    NOT NULL,
    step     INTEGER NOT NULL, -- Which step of the sequencer gave it.
    PRIMARY KEY (space, pos)
) {table:clustered};
-- An event has one position. This is the only index with `seq` in it, and begins with it: given a
-- choice, a planner that knows nothing of the tables yet takes another, and reads all of it for every
-- event.
-- engine: postgres
-- all spaces: seq is unique among all of them.
CREATE UNIQUE INDEX onefold_event_positions_seq ON onefold.event_positions (seq);
-- engine: postgres
CREATE INDEX onefold_event_positions_category ON onefold.event_positions (space, category, pos);

-- The events by position, under one name for both engines. A position always has its event; LEFT
-- JOIN because it fixes the order of the two, and because who asks for positions only then pays for
-- no more: the planner drops the join.
-- engine: postgres
CREATE VIEW onefold.event_log AS
    SELECT p.space, p.pos, p.category, e.stream, e.version, e.kind, e.kind_version, e.data, e.at_ms,
           e.causation, e.correlation
    FROM onefold.event_positions AS p LEFT JOIN onefold.events AS e ON e.seq = p.seq;
-- engine: sqlite
CREATE VIEW onefold.event_log AS
    SELECT space, seq AS pos, category, stream, version, kind, kind_version, data, at_ms, causation, correlation
    FROM onefold.events;

-- PostgreSQL: how far the sequencer has come, one row per step, all under space -1. Invariant: every
-- event that the newest row's snapshot sees has a position. Rows are added, not updated: a single
-- row would drag a tail of dead versions behind it while somebody holds an old snapshot.
-- RETENTION: the last 1,000 to 2,000 steps; older ones are deleted by the steps that follow.
-- engine: postgres
CREATE TABLE onefold.event_steps (
    space  INTEGER NOT NULL CHECK (space = -1),
    step   INTEGER NOT NULL,
    snap   TEXT    NOT NULL, -- pg_snapshot
    system INTEGER NOT NULL, -- The cluster that `snap` speaks of.
    walked INTEGER NOT NULL, -- In a walk over the events of another cluster: the last seq looked at.
    PRIMARY KEY (space, step)
) {table:clustered};

-- Subscriptions. Invariant: the effects of all events up to `pos` are committed or parked, of none
-- after it, because the row changes in the transaction of the effects, and is locked by it.
-- RETENTION: kept until removed by `remove_subscription`.
CREATE TABLE onefold.event_subscriptions (
    space       INTEGER NOT NULL,
    name        TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    category    TEXT    CHECK (length(category) <= 200), -- NULL: all events.
    pos         INTEGER NOT NULL CHECK (pos >= 0),
    attempts    INTEGER NOT NULL CHECK (attempts >= 0), -- Failures of the next event.
    retry_at_ms INTEGER NOT NULL, -- The next event is not tried before.
    parked      INTEGER NOT NULL CHECK (parked >= 0), -- Rows in event_parked.
    PRIMARY KEY (space, name)
) {table:clustered,hot};

-- Dead letters. Invariant: while a stream has one, the later events of that stream are parked
-- behind it, so that a subscription never handles a stream out of order.
-- RETENTION: kept until handled by `retry_parked` or removed by `drop_parked`; at most 10,000 each.
CREATE TABLE onefold.event_parked (
    space        INTEGER NOT NULL,
    subscription TEXT    NOT NULL,
    pos          INTEGER NOT NULL,
    stream       TEXT    NOT NULL,
    attempts     INTEGER NOT NULL CHECK (attempts >= 0), -- 0: it only waits behind another.
    error        TEXT    NOT NULL,
    at_ms        INTEGER NOT NULL,
    PRIMARY KEY (space, subscription, pos)
) {table:clustered};
CREATE INDEX onefold_event_parked_stream ON onefold.event_parked (space, subscription, stream, pos);
