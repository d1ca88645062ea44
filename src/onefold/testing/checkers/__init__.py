"""Checkers: what a recorded history says of the system that made it. Their page is README.md beside this file."""

from onefold.testing.checkers.bank import check_bank as check_bank
from onefold.testing.checkers.check import check as check
from onefold.testing.checkers.drawing import svg as svg
from onefold.testing.checkers.files import parse_history as parse_history
from onefold.testing.checkers.files import read_history as read_history
from onefold.testing.checkers.history import History as History
from onefold.testing.checkers.history import Operation as Operation
from onefold.testing.checkers.insertions import check_comments as check_comments
from onefold.testing.checkers.insertions import check_sequential as check_sequential
from onefold.testing.checkers.linearizability import check_linearizable as check_linearizable
from onefold.testing.checkers.list_append import check_list_append as check_list_append
from onefold.testing.checkers.long_fork import check_long_fork as check_long_fork
from onefold.testing.checkers.rw_register import check_rw_register as check_rw_register
from onefold.testing.checkers.sessions import check_sessions as check_sessions
from onefold.testing.checkers.set_full import check_set_full as check_set_full
from onefold.testing.checkers.total_queue import check_total_queue as check_total_queue
from onefold.testing.checkers.unique_ids import check_unique_ids as check_unique_ids
from onefold.testing.checkers.verdict import Anomaly as Anomaly
from onefold.testing.checkers.verdict import Verdict as Verdict
