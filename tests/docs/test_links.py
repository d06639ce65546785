"""What the pages link to is there: files, and headings in them. Addresses on the web are not tried."""

import re
from collections import Counter

import pytest

from tests.workers.processes import ROOT

PAGES = [
    *ROOT.glob("*.md"),
    *(page for folder in ("docs", "benchmarks", "notebooks") for page in (ROOT / folder).rglob("*.md")),
]


def prose(text):
    """Without code, where brackets mean something else."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def targets(text):
    """Of links and of pictures."""
    text = re.sub(r"(?<!\[)`[^`\n]+`(?!\])", "", prose(text))
    return [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'(?:src|srcset|href)="([^"]+)"', text)]


def anchors(text):
    """Of its headings, as GitHub makes them: lower case, no punctuation, hyphens for spaces, repetitions counted."""
    seen = Counter()
    found = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", prose(text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def broken(page):
    for target in targets(page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists():
            yield f"{target}: no such file"
        elif anchor and anchor not in anchors(there.read_text()):
            yield f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    assert not list(broken(page))


def test_every_page_of_the_docs_can_be_reached_from_the_readme():
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        reached.add(page)
        found = ((page.parent / target.partition("#")[0]).resolve() for target in targets(page.read_text()))
        ahead += [each for each in found if each.suffix == ".md" and each.is_file() and each not in reached]
    first = ROOT / "docs" / "index.md"  # of the site, where it shows the README
    assert {page for page in PAGES if page.is_relative_to(ROOT / "docs")} - {first} <= reached


def test_a_link_to_nowhere_is_found(tmp_path):
    (tmp_path / "there.md").write_text("# A `b`, c?\n## A `b`, c?\n")
    lines = [
        "[fine](there.md#a-b-c) [again](there.md#a-b-c-1) [`code`](there.md) [web](https://example.org/x)",
        "# Here\n[self](#here) `[no](link.md)`",
        "```\n[neither](is.md)\n```",
        '[a](gone.md) [b](there.md#a-b-d) [c](#nowhere) <img src="gone.svg">',
    ]
    (tmp_path / "page.md").write_text("\n".join(lines))
    assert list(broken(tmp_path / "page.md")) == [
        "gone.md: no such file",
        "there.md#a-b-d: no such heading",
        "#nowhere: no such heading",
        "gone.svg: no such file",
    ]
