-- release 0.1 works on this: it neither writes nor reads it.

-- Streams whose parked events somebody asked to try again: the handler is in the program, so the
-- subscription does it in its next steps. Invariant: written and deleted under the subscription's row.
-- RETENTION: deleted when the events were tried, or dropped; at most one per parked event.
CREATE TABLE onefold.event_retries (
    space        INTEGER NOT NULL,
    subscription TEXT    NOT NULL CHECK (length(subscription) BETWEEN 1 AND 200),
    stream       TEXT    NOT NULL CHECK (length(stream) BETWEEN 1 AND 200),
    asked_at_ms  INTEGER NOT NULL,
    PRIMARY KEY (space, subscription, stream)
) {table:clustered};
