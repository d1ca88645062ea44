-- Booking. What decides is the row of seats of a show (`onefold.booking_rows`): which seats are
-- sold, which are held, by whom and until when stand in that one row, and whoever changes any of it
-- locks that row first. A hold is an entry in it, not a row of its own: taking the seats of a lapsed
-- hold removes its entry, and a hold without its entry can never be confirmed, whatever clocks say.

-- Venues. RETENTION: kept; a few thousand rows, the operator's master data.
CREATE TABLE onefold.booking_venues (
    space         INTEGER NOT NULL,
    id            TEXT    NOT NULL,
    name          TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    seats         INTEGER NOT NULL CHECK (seats > 0),
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (space, id)
) {table:clustered};

-- The seat map of a venue, one row per physical row of seats, as shows copy it.
-- Bit n of `whole` is seat n + 1; bit n of `aisles` says that an aisle follows seat n + 1.
-- x2, y2: twice the centimetres from the focal point to the row's first seat; `near` is the square of the
-- least distance a seat of it can have. Rows are numbered by nearness, so that the primary key is the order
-- in which the best seats are looked for; `place` is the order from front to back. RETENTION: kept, as its venue.
CREATE TABLE onefold.booking_venue_rows (
    space    INTEGER NOT NULL,
    venue_id TEXT    NOT NULL,
    row_no   INTEGER NOT NULL CHECK (row_no >= 1),
    place    INTEGER NOT NULL CHECK (place >= 1),
    section  TEXT    NOT NULL CHECK (length(section) BETWEEN 1 AND 100),
    category TEXT    NOT NULL CHECK (length(category) BETWEEN 1 AND 100),
    label    TEXT    NOT NULL CHECK (length(label) BETWEEN 1 AND 20),
    whole    INTEGER NOT NULL CHECK (whole > 0),
    aisles   INTEGER NOT NULL CHECK (aisles >= 0),
    pitch_cm INTEGER NOT NULL CHECK (pitch_cm > 0),
    x2       INTEGER NOT NULL,
    y2       INTEGER NOT NULL,
    near     INTEGER NOT NULL CHECK (near >= 0),
    PRIMARY KEY (space, venue_id, row_no)
) {table:clustered};

-- Shows: one performance each. RETENTION: kept, as orders point to them; `forget_show` removes the rows of
-- seats of a show that is over.
CREATE TABLE onefold.booking_shows (
    space         INTEGER NOT NULL,
    id            TEXT    NOT NULL,
    venue_id      TEXT    NOT NULL,
    title         TEXT    NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
    starts_at_ms  INTEGER NOT NULL,
    sale_from_ms  INTEGER NOT NULL,
    sale_until_ms INTEGER NOT NULL,
    prices        TEXT    NOT NULL, -- JSON: {category: minor units}.
    currency      TEXT    NOT NULL,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (space, id),
    CHECK (sale_from_ms < sale_until_ms)
) {table:clustered};
CREATE INDEX onefold_booking_shows_start ON onefold.booking_shows (space, starts_at_ms, id);

-- The deciding row. INVARIANTS: no seat is both held and sold; `held` is the union of the masks in
-- `holds`, which are disjoint; a bit enters `sold` only from `held`, in the transaction that removes the
-- hold's entry and inserts its order. `lapses_at_ms` is not later than the first expiry in `holds`
-- (NULL when there is none): a reader looks into `holds` only when it has passed. `best_run` is the longest
-- run of seats neither held nor sold. `ver` grows with every change that can be seen.
-- One index, and nothing that changes in it: a second one that begins alike is taken by PostgreSQL, before
-- its first ANALYZE, to find one row by its key, and then all rows of the show are read and conflict.
-- RETENTION: kept until `forget_show`.
CREATE TABLE onefold.booking_rows (
    space         INTEGER NOT NULL,
    show_id       TEXT    NOT NULL,
    row_no        INTEGER NOT NULL CHECK (row_no >= 1),
    place         INTEGER NOT NULL CHECK (place >= 1),
    section       TEXT    NOT NULL,
    label         TEXT    NOT NULL,
    whole         INTEGER NOT NULL CHECK (whole > 0),
    aisles        INTEGER NOT NULL,
    pitch_cm      INTEGER NOT NULL,
    x2            INTEGER NOT NULL,
    y2            INTEGER NOT NULL,
    near          INTEGER NOT NULL,
    price_minor   INTEGER NOT NULL CHECK (price_minor >= 0), -- Of one seat.
    currency      TEXT    NOT NULL,
    sale_from_ms  INTEGER NOT NULL,
    sale_until_ms INTEGER NOT NULL,
    sold          INTEGER NOT NULL,
    held          INTEGER NOT NULL,
    holds         TEXT    NOT NULL, -- One line of JSON for each hold: [id, by, mask, price, made, expires].
    lapses_at_ms  INTEGER,
    best_run      INTEGER NOT NULL CHECK (best_run >= 0),
    ver           INTEGER NOT NULL,
    PRIMARY KEY (space, show_id, row_no),
    CHECK ((sold & held) = 0),
    CHECK (((sold | held) & (~whole)) = 0),
    CHECK ((held = 0) = (holds = ''))
) {table:clustered,hot};

-- How many holds a buyer may have in one show: one for each slot, so the key decides.
-- `expires_at_ms` is that of the hold, or 0 once it ended. RETENTION: swept once lapsed.
CREATE TABLE onefold.booking_slots (
    space         INTEGER NOT NULL,
    show_id       TEXT    NOT NULL,
    buyer         TEXT    NOT NULL,
    slot          INTEGER NOT NULL CHECK (slot BETWEEN 0 AND 9),
    hold_id       TEXT    NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    PRIMARY KEY (space, show_id, buyer, slot)
) {table:clustered,hot};

-- Orders: sold seats. A live order's seats are sold bits of its rows, and no other live order has them.
-- RETENTION: kept, a business record; a cancelled order keeps its row.
CREATE TABLE onefold.booking_orders (
    space           INTEGER NOT NULL,
    id              TEXT    NOT NULL,
    show_id         TEXT    NOT NULL,
    buyer           TEXT    NOT NULL CHECK (length(buyer) BETWEEN 1 AND 200),
    hold_id         TEXT    NOT NULL,
    blocks          TEXT    NOT NULL, -- JSON: the seats as they were called when sold.
    price_minor     INTEGER NOT NULL CHECK (price_minor >= 0),
    currency        TEXT    NOT NULL,
    created_at_ms   INTEGER NOT NULL,
    cancelled_at_ms INTEGER,
    PRIMARY KEY (space, id)
) {table:clustered};
CREATE INDEX onefold_booking_orders_buyer ON onefold.booking_orders (space, buyer, id);
CREATE INDEX onefold_booking_orders_show ON onefold.booking_orders (space, show_id, id);
