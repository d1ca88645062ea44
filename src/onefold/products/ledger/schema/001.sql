-- Ledger: double entry. One row per transfer holds both sides and one amount, so debits equal credits
-- whatever happens. What decides whether money may leave is the balance row of a limited account.

-- Accounts; what stands here never changes. An unlimited account has no other row: its balance is the
-- engine's counter "ledger/NAME", which is added to without a lock. RETENTION: kept, as transfers name them.
CREATE TABLE onefold.ledger_accounts (
    space        INTEGER NOT NULL,
    name         TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 180),
    currency     TEXT    NOT NULL CHECK (length(currency) = 3),
    limited      BOOLEAN NOT NULL,
    opened_at_ms INTEGER NOT NULL,
    PRIMARY KEY (space, name)
) {table:clustered};

-- The deciding row of a limited account. INVARIANTS: `posted` is what its transfers and posts add up to;
-- `reserved` is the sum of its rows as debit in `ledger_pendings`, lapsed ones not yet released included,
-- and changes only while this row is locked; nobody overdraws. `entries` counts the account's rows in
-- `ledger_entries`, `last_id` names the transfer of the newest, `previous_id` of the one before it.
-- What changes is in no index. RETENTION: as its account, kept.
CREATE TABLE onefold.ledger_balances (
    space           INTEGER NOT NULL,
    account         TEXT    NOT NULL,
    posted          INTEGER NOT NULL CHECK (posted <= 1000000000000000),
    reserved        INTEGER NOT NULL CHECK (reserved >= 0),
    overdraft_minor INTEGER NOT NULL CHECK (overdraft_minor BETWEEN 0 AND 1000000000000),
    entries         INTEGER NOT NULL CHECK (entries >= 0),
    last_id         TEXT,
    previous_id     TEXT,
    PRIMARY KEY (space, account),
    CHECK (posted - reserved + overdraft_minor >= 0)
) {table:clustered,hot};

-- What happened: inserted, never changed. `kind`: "transfer" and "post" move `amount` from debit to credit;
-- "pending" reserves it; "void" releases it. A pending one is resolved at most once, by the row that names
-- it in `pending_id`. RETENTION: kept for good, this is the journal.
CREATE TABLE onefold.ledger_transfers (
    space          INTEGER NOT NULL,
    id             TEXT    NOT NULL CHECK (length(id) BETWEEN 1 AND 200),
    kind           TEXT    NOT NULL CHECK (kind IN ('transfer', 'pending', 'post', 'void')),
    debit          TEXT    NOT NULL,
    credit         TEXT    NOT NULL,
    currency       TEXT    NOT NULL,
    amount         INTEGER NOT NULL CHECK (amount BETWEEN 1 AND 1000000000000),
    memo           TEXT    NOT NULL CHECK (length(memo) <= 500),
    at_ms          INTEGER NOT NULL,
    pending_id     TEXT,
    expires_at_ms  INTEGER,
    debit_limited  BOOLEAN NOT NULL, -- As in the accounts; here so that one statement does all.
    credit_limited BOOLEAN NOT NULL,
    PRIMARY KEY (space, id),
    CHECK (debit <> credit),
    CHECK ((kind IN ('post', 'void')) = (pending_id IS NOT NULL)),
    CHECK ((kind = 'pending') = (expires_at_ms IS NOT NULL))
) {table:clustered};
-- Histories of unlimited accounts: a few right edges. Limited ones have `ledger_entries`.
CREATE INDEX onefold_ledger_transfers_debit ON onefold.ledger_transfers (space, debit, at_ms, id)
    WHERE NOT debit_limited AND kind IN ('transfer', 'post');
CREATE INDEX onefold_ledger_transfers_credit ON onefold.ledger_transfers (space, credit, at_ms, id)
    WHERE NOT credit_limited AND kind IN ('transfer', 'post');
CREATE UNIQUE INDEX onefold_ledger_transfers_resolves ON onefold.ledger_transfers (space, pending_id)
    WHERE pending_id IS NOT NULL;

-- The history of limited accounts: one row per account and transfer that changed its posted balance,
-- numbered without gaps, with the balance after it. A row names its predecessor and the balance row names
-- the newest, so that a history is read backwards by primary key and writing one touches no page of the
-- account's own: an index by account cost half of the throughput at 300,000 transfers.
-- Inserted, never changed. RETENTION: kept for good, with the journal.
CREATE TABLE onefold.ledger_entries (
    space       INTEGER NOT NULL,
    transfer_id TEXT    NOT NULL,
    account     TEXT    NOT NULL,
    number      INTEGER NOT NULL CHECK (number >= 1),
    balance     INTEGER NOT NULL,
    previous_id TEXT,
    PRIMARY KEY (space, transfer_id, account),
    CHECK ((number = 1) = (previous_id IS NULL))
) {table:clustered};

-- Pending transfers that are neither posted nor voided. Deleting the row is what resolves it; past
-- `expires_at_ms` it counts for nothing. INVARIANT: inserted and deleted with the balance row of a
-- limited debit account locked. RETENTION: released by the next transaction that needs the funds, at the
-- latest by the loop "ledger.tidy".
CREATE TABLE onefold.ledger_pendings (
    space          INTEGER NOT NULL,
    id             TEXT    NOT NULL,
    debit          TEXT    NOT NULL,
    credit         TEXT    NOT NULL,
    currency       TEXT    NOT NULL,
    amount         INTEGER NOT NULL CHECK (amount >= 1),
    memo           TEXT    NOT NULL,
    at_ms          INTEGER NOT NULL,
    expires_at_ms  INTEGER NOT NULL,
    debit_limited  BOOLEAN NOT NULL,
    credit_limited BOOLEAN NOT NULL,
    PRIMARY KEY (space, id)
) {table:clustered};
CREATE INDEX onefold_ledger_pendings_debit ON onefold.ledger_pendings (space, debit, expires_at_ms, id, amount);
CREATE INDEX onefold_ledger_pendings_credit ON onefold.ledger_pendings (space, credit, expires_at_ms, id, amount);
