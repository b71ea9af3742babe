"""Every block of the documentation does what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aotsearch import yamlfile
from aotsearch.errors import InputError
from aotsearch.space import Space
from aotsearch.study import parse

ROOT = Path(__file__).parent.parent
SIZES = {"vocabulary": 256, "context": 64}
PAGES = (ROOT / "README.md", ROOT / "docs" / "grammar.md")


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """The blocks of a page in a language: line and text."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
    return [(text.count("\n", 0, m.start()) + 2, m.group(1)) for m in found]


def space_of(text: str) -> Space:
    """A study is loaded as one, from the root of the repository; a fragment is the grammar of a small task."""
    node = yamlfile.parse(text, "block")
    return Space.parse(node, SIZES) if "model" in node.value else parse(node, ROOT).space


BLOCKS = [pytest.param(text, id=f"{page.name}:{line}") for page in PAGES for line, text in blocks(page, "yaml")]


@pytest.mark.parametrize("text", BLOCKS)
def test_a_yaml_block_is_what_its_comments_say(text: str) -> None:
    refused = re.search(r"^# error: (.+)$", text, re.M)
    if refused:
        with pytest.raises(InputError, match=re.escape(refused.group(1))):
            space_of(text)
        return
    space = space_of(text)
    counted = re.search(r"^# (\d+) architectures$", text, re.M)
    if counted:
        assert space.bound() == (int(counted.group(1)), True)
        assert space.count() < 1000 and len(list(space.enumerate())) == space.count()
    assert space.reference.width > 0 and space.sample(0).width > 0


def test_the_pages_show_counts_and_errors() -> None:
    text = PAGES[1].read_text(encoding="utf-8")
    assert len(re.findall(r"^# \d+ architectures$", text, re.M)) >= 15 and text.count("# error: ") >= 4


@pytest.mark.parametrize("text", [pytest.param(t, id=f"README.md:{line}") for line, t in blocks(PAGES[0], "python")])
def test_a_python_block_of_the_readme_runs(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(text, "README.md", "exec"), {})
