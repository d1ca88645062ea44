"""Workloads: programs over `tx` on real processes, while a nemesis breaks things; the history judged by a checker.

Their page is README.md beside this file.
"""

from onefold.testing.workload.client import Client as Client
from onefold.testing.workload.nemesis import FAULTS as FAULTS
from onefold.testing.workload.nemesis import faults_for as faults_for
from onefold.testing.workload.ready import BANK as BANK
from onefold.testing.workload.ready import LIST_APPEND as LIST_APPEND
from onefold.testing.workload.ready import LOCKS as LOCKS
from onefold.testing.workload.ready import RW_REGISTER as RW_REGISTER
from onefold.testing.workload.ready import STREAMS as STREAMS
from onefold.testing.workload.run import Report as Report
from onefold.testing.workload.run import run as run
from onefold.testing.workload.simulated import simulated as simulated
from onefold.testing.workload.workload import Workload as Workload
