"""PostgreSQL, when one machine is too small: one function per transaction, on pipelined connections."""
