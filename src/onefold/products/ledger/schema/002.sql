-- release 0.1 works on this: an index more.

-- all spaces: lapsed reservations are released by age. `+ 0`, so that no planner takes it for those of an account.
CREATE INDEX onefold_ledger_pendings_expires ON onefold.ledger_pendings ((expires_at_ms + 0));
