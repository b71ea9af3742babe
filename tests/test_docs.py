"""Every block of the documentation does what the page says."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from aotsearch import yamlfile
from aotsearch.errors import InputError
from aotsearch.grammar.space import Space
from aotsearch.study.loading import measured, parse

ROOT = Path(__file__).parent.parent
SIZES = {"": {"vocabulary": 256, "context": 64}, "vision": {"image": 32, "channels": 3, "classes": 10}}  # by the word after `yaml`
PAGES = (ROOT / "README.md", ROOT / "docs" / "grammar.md", ROOT / "docs" / "presets.md", ROOT / "docs" / "evidence.md")


def blocks(language: str) -> list[Any]:
    """The blocks of all pages in a language: the task they are for, and their text."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for m in re.finditer(rf"^```{language} ?(\w*)\n(.*?)^```", text, re.M | re.S):
            found.append(pytest.param(m.group(1), m.group(2), id=f"{page.name}:{text.count(chr(10), 0, m.start()) + 2}"))
    return found


def space_of(task: str, text: str) -> Space:
    """A study is loaded as one, from the root of the repository; a fragment is the grammar of a small task, or the settings of a study."""
    node = yamlfile.parse(text, "block")
    if task == "study":
        settings = textwrap.indent(text, "  ")
        made = parse(yamlfile.parse(f"name: other\nspace: spaces/redundancy.yaml\nstudy:\n{settings}", "block"), ROOT)
        assert len(made.base_design.arms) > 1
        return made.space
    return Space.parse(node, SIZES[task], measured) if "model" in node.value else parse(node, ROOT).space


@pytest.mark.parametrize(("task", "text"), blocks("yaml"))
def test_a_yaml_block_is_what_its_comments_say(task: str, text: str) -> None:
    refused = re.search(r"^# error: (.+)$", text, re.M)
    if refused:
        with pytest.raises(InputError, match=re.escape(refused.group(1))):
            space_of(task, text)
        return
    space = space_of(task, text)
    counted = re.search(r"^# (\d+) architectures$", text, re.M)
    if counted:
        assert space.bound() == (int(counted.group(1)), True)
        assert space.count() < 1000 and len(list(space.enumerate())) == space.count()
    assert space.reference.width > 0 and space.sample(0).width > 0


def test_the_pages_show_counts_and_errors() -> None:
    text = PAGES[1].read_text(encoding="utf-8")
    assert len(re.findall(r"^# \d+ architectures$", text, re.M)) >= 15 and text.count("# error: ") >= 4


@pytest.mark.parametrize(("task", "text"), blocks("python"))
def test_a_python_block_runs(task: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "transformers" in text:
        pytest.importorskip("transformers").logging.set_verbosity_error()
    monkeypatch.chdir(ROOT)
    exec(compile(text, "block", "exec"), {})


def test_the_layout_in_the_readme_is_that_of_the_package() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Layout")[2]
    listed = re.findall(r"^    (\w+(?:/|\.py)) ", text, re.MULTILINE)
    there = {f"{p.name}/" for p in (ROOT / "aotsearch").iterdir() if (p / "__init__.py").exists()} | {
        p.name for p in (ROOT / "aotsearch").glob("*.py") if p.name != "__init__.py"
    }
    assert set(listed) == there and len(listed) == len(there)
