"""Disks that fail, under real processes: errors of writes and syncs, and whatever a power cut may leave behind."""

from onefold.testing.disk.power import Image
from onefold.testing.disk.record import Fault, Recording, record, unavailable

__all__ = ["Fault", "Image", "Recording", "record", "unavailable"]
