"""The model of a disk, and the recording of a program that writes by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from onefold import Invalid
from onefold.testing.disk import Fault, record, unavailable
from onefold.testing.disk.power import PAGE_BYTES, SECTOR_BYTES, Disk
from onefold.testing.disk.trace import Step, Trace

OLD = b"o" * PAGE_BYTES
NEW = b"n" * PAGE_BYTES

traced = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))


def disk_after(*steps: Step) -> Disk:
    disk = Disk({"a": OLD})
    for number, step in enumerate(steps):
        disk.apply(number, step)
    return disk


def kept(way: str, *steps: Step, name: str = "a") -> set[bytes | None]:
    disk = disk_after(*steps)
    return {disk.image(way, len(steps) - 1, seed).files.get(name) for seed in range(40)}


def test_only_a_sync_that_began_after_a_write_makes_it_sure() -> None:
    write = Step("write", "a", data=NEW)
    assert kept("none", write) == {OLD}
    assert kept("all", write) == {NEW}
    assert kept("none", write, Step("sync", "a", began=0)) == {OLD}
    assert kept("none", write, Step("sync", "a", began=1)) == {NEW}
    assert kept("none", write, Step("sync", "b", began=1)) == {OLD}


def test_after_a_failed_sync_only_a_new_write_to_the_page_helps() -> None:
    lost = (Step("write", "a", data=NEW), Step("sync", "a", began=1, failed=True))
    assert kept("none", *lost, Step("sync", "a", began=2)) == {OLD}
    again = (*lost, Step("write", "a", began=2, data=b"n"), Step("sync", "a", began=3))
    assert kept("none", *again) == {NEW}


@pytest.mark.parametrize("way", ["torn", "any"])
def test_sectors_are_whole_and_any_of_them_may_be_missing(way: str) -> None:
    found = kept(way, Step("write", "a", data=NEW))
    assert len(found) > 10
    for content in found:
        assert content is not None
        sectors = {content[at : at + SECTOR_BYTES] for at in range(0, PAGE_BYTES, SECTOR_BYTES)}
        assert sectors <= {OLD[:SECTOR_BYTES], NEW[:SECTOR_BYTES]}


def test_a_torn_write_leaves_the_one_before_it_whole() -> None:
    found = kept("torn", Step("write", "a", data=NEW), Step("write", "a", began=1, offset=PAGE_BYTES, data=NEW))
    assert all(content is not None and (content[:PAGE_BYTES] == NEW or len(content) == PAGE_BYTES) for content in found)


def test_names_are_sure_when_their_folder_is_synced() -> None:
    move = Step("move", "a", target="b")
    assert kept("none", move) == {OLD}
    assert kept("none", move, name="b") == {None}
    assert kept("none", move, Step("sync", "", began=1), name="b") == {OLD}
    assert kept("none", move, Step("sync", "", began=1)) == {None}


def test_a_cut_is_sure_with_its_sync() -> None:
    cut = Step("cut", "a", offset=10)
    assert kept("none", cut) == {OLD}
    assert kept("none", cut, Step("sync", "a", began=1)) == {OLD[:10]}


def test_calls_of_two_threads_are_told_apart() -> None:
    """A write that is over while a sync runs is not covered by it."""
    place = "".join(f"\\x{byte:02x}" for byte in b"/f/a")
    trace = Trace(Path("/f"), ["a"], ("-shm",))
    trace.read([
        f"7 fdatasync(3<{place}> <unfinished ...>\n",
        f'8 pwrite64(4<{place}>, "\\x6e", 1, 5) = 1\n',
        "7 <... fdatasync resumed>)          = 0\n",
        f"7 fdatasync(3<{place}>) = -1 EIO (Input/output error) (INJECTED)\n",
    ])  # fmt: skip
    assert trace.steps == [
        Step("write", "a", 0, 5, b"n"), Step("sync", "a", 0), Step("sync", "a", 2, failed=True),
    ]  # fmt: skip
    assert trace.injected == 1


@traced
def test_a_program_is_followed(tmp_path: Path) -> None:
    program = """
import os
file = os.open("a", os.O_CREAT | os.O_RDWR)
os.pwrite(file, b"first", 0)
try: os.fsync(file)
except OSError as error: os.write(1, error.strerror.encode() + b"\\n")
os.pwrite(file, b"F", 0)
os.fsync(file)
os.fsync(os.open(".", os.O_RDONLY))
os.write(1, b"sure\\n")
"""
    recording = record([sys.executable, "-c", program], tmp_path, faults=[Fault("sync", "ENOSPC")])
    assert (recording.status, recording.injected) == (0, 1), recording.errors
    assert recording.said() == ["No space left on device", "sure"]
    after = [image.files.get("a") for image in recording.images(most=100) if "sure" in image.said]
    assert after == [b"First"]


@traced
def test_what_is_not_followed_is_refused(tmp_path: Path) -> None:
    shared = "import mmap, os; mmap.mmap(os.open('b', os.O_RDWR), 1)[0] = 1"
    inside = "import os; os.mkdir('c'); os.open('c/d', os.O_CREAT)"
    (tmp_path / "b").write_bytes(b"0")
    for program in ("open('a', 'w').write('x')", shared, inside):
        with pytest.raises(Invalid, match="not followed"):
            record([sys.executable, "-S", "-c", program], tmp_path)
    with pytest.raises(Invalid, match="kind of call"):
        record(["true"], tmp_path, faults=[Fault("sync", "EIO"), Fault("sync", "ENOSPC")])
    for nth, times in ((0, 1), (1, 0), (65_536, 1)):
        with pytest.raises(Invalid, match="befalls"):
            Fault("sync", "EIO", nth=nth, times=times)
