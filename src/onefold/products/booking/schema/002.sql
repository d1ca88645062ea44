-- release 0.1 works on this: it neither writes nor reads it.

-- How far the tidying has come through onefold.booking_slots. It walks, because an index on `expires_at_ms`
-- would change when a hold ends: then that update touches the pages of the key, and buyers of one show conflict.
-- RETENTION: at most one row, deleted at the end of each round.
CREATE TABLE onefold.booking_tidied (
    space   INTEGER NOT NULL,
    show_id TEXT    NOT NULL,
    buyer   TEXT    NOT NULL,
    slot    INTEGER NOT NULL,
    PRIMARY KEY (space)
) {table:clustered};
