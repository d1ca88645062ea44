"""What a block promises stands on its page, and the root README says the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_laws import tables_of

from onefold.index import BLOCKS, folder_of

ROOT = Path(__file__).parent.parent
BADGE = re.compile(r"\*\*(Stable|Preview|Lab)\.?\*\*")
ROW = re.compile(r"^\| \[(\w+)\]\(([^)]+)\) \| [^|]+ \| (\w+) \|$")
SECTIONS = {"Stable": {"Stable"}, "Preview": {"Preview"}, "Lab": {"Lab"}}


def badges_on(page: str) -> list[str]:
    return BADGE.findall(page)


def rows_in(readme: str) -> list[tuple[str, str, str, str]]:
    """Of each row of the table of blocks: the heading above it, the block, the link, the badge."""
    heading, found = "", []
    for line in readme.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif row := ROW.match(line):
            found.append((heading, row[1], row[2], row[3]))
    return found


def misplaced(rows: list[tuple[str, str, str, str]]) -> list[str]:
    """Blocks that stand under a heading that is not theirs."""
    return [block for heading, block, _, badge in rows if badge not in SECTIONS.get(heading, set())]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_page_has_one_badge_right_below_its_title(block: str) -> None:
    page = (folder_of(block) / "README.md").read_text(encoding="utf-8")
    assert len(badges_on(page)) == 1
    assert BADGE.match(page.splitlines()[2]), "the third line begins with it"


def test_the_root_readme_says_what_the_pages_say() -> None:
    rows = rows_in((ROOT / "README.md").read_text(encoding="utf-8"))
    assert sorted(block for _, block, _, _ in rows) == sorted(BLOCKS), "each block has one row"
    for _, block, link, badge in rows:
        assert ROOT / link == folder_of(block) / "README.md"
        assert badges_on((ROOT / link).read_text(encoding="utf-8")) == [badge]


def test_only_stable_blocks_stand_in_the_first_table() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert misplaced(rows_in(readme)) == []
    headings = [line for line in readme.splitlines() if line.startswith("### ")]
    assert headings[0] == "### Stable"
    assert headings == [f"### {name}" for name in SECTIONS if f"### {name}" in headings], "the firmest first"


def test_a_wrong_badge_or_place_is_seen() -> None:
    row = "| [jobs](src/x/README.md) | a queue | Preview |"
    assert misplaced(rows_in(f"### Stable\n{row}")) == ["jobs"]
    assert misplaced(rows_in(row)) == ["jobs"]
    assert misplaced(rows_in(f"### Preview\n{row}")) == []
    assert badges_on("**Preview.** Now **Stable**") == ["Preview", "Stable"]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_way_out_names_every_block_and_what_it_keeps(block: str) -> None:
    leaving = (ROOT / "docs" / "leaving.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| {block} \| ([^|]+) \|", leaving, re.MULTILINE)
    tables = tables_of(block, "sqlite") | tables_of(block, "postgres")
    for name in re.findall(r"`([\w*]+)`", row):
        assert any(re.fullmatch(name.replace("*", r"\w+"), table) for table in tables), name
