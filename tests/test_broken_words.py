"""Packages whose words are broken, installed beside one that is not: what each costs, and what a person is told."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aotsearch.errors import InputError
from aotsearch.grammar import architecture, forms, laws, library, words
from aotsearch.show.show import tree
from aotsearch.study.loading import load
from aotsearch.study.study import Study
from aotsearch.training import trial
from aotsearch.training.device import DeviceSettings

HEAD = """
from __future__ import annotations
import torch
from torch import nn
from aotsearch.grammar.words import Count, Flag, Score, word
"""
GOOD = '''
@word("channel", "NAME")
class Kind(nn.Module):
    """A linear map.

    y = x W

    Source: none.

    Args:
        rank: Nothing.
LAWS
    """

    def __init__(self, site, *, rank: Count = 2):
        super().__init__()
        self.output = nn.Linear(site.width, site.width)

    def forward(self, x):
        return self.output(x)
'''
STUDY = """
name: words
task: {language: {data: {text: corpus.txt}, context: 16}}
grammar:
  model: {width: 16, depth: 1, block: [attention, channel]}
  channel: {any: [mlp, WORD]}
study: {seeds: 1, budget: {steps: 2, batch: 2, evaluations: 1}, diagnostics: none}
"""


def good(name: str, laws: str = "") -> str:
    return HEAD + GOOD.replace("NAME", name).replace("LAWS", laws)


def bad(old: str, new: str) -> str:
    text = good("bad")
    assert old in text
    return text.replace(old, new)


# what a package may get wrong -> its text, and what is said of it where the word is asked for
UNREADABLE = {
    "a type of Python's": (
        bad("rank: Count = 2", "rank: int = 2"),
        "bad_module.Kind: the option 'rank': the type 'int' is not one of Count",
    ),
    "no type": (bad("rank: Count = 2", "rank=2"), "bad_module.Kind: the option 'rank' needs a type"),
    "a type of typing's": (bad("rank: Count = 2", "rank: list[Count] = 2"), "Kind: the option 'rank': the type 'list.Count.' is not one"),
    "a default of another type": (
        bad("rank: Count = 2", "rank: Count = 0"),
        "Kind: the default of the option 'rank': rank is a whole number",
    ),
    "a computed default": (bad("rank: Count = 2", "rank: Count = len('ab')"), "Kind: the default of the option 'rank' is read from source"),
    "options by position": (
        bad("site, *, rank: Count", "site, rank: Count"),
        "Kind: after 'site' options are keyword-only; put \\* before rank",
    ),
    "literals that are names": (
        bad("rank: Count = 2", "rank: Literal[ONE] = 1"),
        "Kind: the option 'rank': the type 'Literal.ONE.' is read from source text",
    ),
    "a decorator of another name": (bad("@word(", "@library.word("), "bad_module: it declares no word: a class at the top"),
    "no site": (bad("self, site, *, ", "self, *, "), "Kind: __init__ takes self, site"),
    "any keyword": (bad("rank: Count = 2)", "rank: Count = 2, **more)"), "Kind: \\*\\*kwargs would let"),
    "an option of every sublayer": (bad("rank: Count", "norm: Count"), "Kind: every sublayer takes norm already"),
    "a slot that is none": (bad('"channel", "bad"', '"channels", "bad"'), "Kind: the slot 'channels' is not one of mixer"),
    "a name that is computed": (bad('"channel", "bad"', '"channel", "b" + "ad"'), "bad_module.Kind: @word takes two literal strings"),
    "a name that is none": (bad('"channel", "bad"', '"channel", "Bad"'), "bad_module.Kind: the name 'Bad' is not one of small"),
    "a syntax error": (bad("def forward(self, x):", "def forward(self, x)"), "bad_module: cannot be read: SyntaxError"),
    "no module": (None, "bad_module: cannot be read: ModuleNotFoundError"),
    "no text": ("\udcff", "bad_module: cannot be read: UnicodeDecodeError"),
}
UNUSABLE = {
    "an import that fails": (bad("import torch\n", "import torch\nimport missing_module\n"), "cannot be imported: ModuleNotFoundError"),
    "an exit at import": (good("bad") + "\nraise SystemExit(3)\n", "cannot be imported: SystemExit"),
    "no class of that name at the end": (good("bad") + "\ndel Kind\n", "cannot be imported: AttributeError"),
    "a start that fails": (
        bad("        super().__init__()\n", "        super().__init__()\n        site.no\n"),
        "cannot be made: AttributeError",
    ),
    "a forward that fails": (bad("return self.output(x)", "return self.output(x, x)"), "a model with it cannot be computed: TypeError"),
    "a forward of another shape": (bad("return self.output(x)", "return x[..., :3]"), "a model with it cannot be computed: RuntimeError"),
    "a law that is none": (good("bad", "\n    Requires:\n        rank >"), "requires 'rank >', which is no law"),
    "a law that cannot be evaluated": (
        good("bad", "\n    Requires:\n        width / (rank - 2) > 0"),
        "requires 'width / \\(rank - 2\\) > 0': InputError: .*division by zero; mend it",
    ),
    "a law about what is not there": (
        good("bad", "\n    Requires:\n        rang > 1"),
        "requires rang, .*; so says the package bad-package",
    ),
}


def install(site: Path, package: str, module: str, text: str | None) -> None:
    """A distribution as pip leaves it: its module, and its metadata with the entry point."""
    site.mkdir(exist_ok=True)
    if text is not None:
        (site / f"{module}.py").write_text(text, errors="surrogateescape")
    info = site / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[aotsearch.parts]\nwords = {module}\n")


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "site"), str(Path(__file__).parent.parent)])}


def aotsearch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aotsearch", *arguments]
    return subprocess.run(command, env=environment(folder), capture_output=True, text=True, cwd=folder)


def forget() -> None:
    for known in (library.library, library._installed, architecture.defaults, laws.laws, laws._parsed):
        known.cache_clear()
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.endswith("_module")]:
        del sys.modules[name]


class Installed:
    """This process with some packages installed, and what it logged when it found them."""

    def __init__(self, folder: Path, caplog: pytest.LogCaptureFixture):
        self.folder, self.caplog = folder, caplog

    def install(self, package: str, module: str, text: str | None) -> None:
        install(self.folder / "site", package, module, text)
        forget()

    def study(self, word: str) -> Study:
        (self.folder / f"{word}.yaml").write_text(STUDY.replace("WORD", word))
        return load(self.folder / f"{word}.yaml")

    def refused(self, word: str) -> str:
        with pytest.raises(InputError) as e:
            shown = self.study(word)
            tree(shown.arm(f"channel={word}"), shown.reference)
        (problem,) = e.value.problems
        assert "\n" not in str(problem)
        return str(problem)

    @property
    def logged(self) -> list[str]:
        return [record.getMessage() for record in self.caplog.records if record.name == "aotsearch.grammar.library"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Installed]:
    monkeypatch.syspath_prepend(tmp_path / "site")
    found = Installed(tmp_path, caplog)
    found.install("good-package", "good_module", good("fine"))
    (tmp_path / "corpus.txt").write_text("to be or not to be " * 100)
    yield found
    monkeypatch.undo()
    forget()


@pytest.mark.parametrize(("text", "words"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_word_that_can_not_be_read_costs_nothing_but_itself(installed: Installed, text: str | None, words: str) -> None:
    installed.install("bad-package", "bad_module", text)
    assert installed.study("fine").space.count() == 2
    asked = installed.refused("bad")
    (line,) = installed.logged
    assert re.search(f"^a word is left out: the package bad-package, .*{words}.*; mend it, or `pip uninstall bad-package`$", line), line
    assert re.search(f"bad.yaml:6:.*unknown sublayer 'bad'.*the package bad-package, .*{words}.*pip uninstall", asked), asked


@pytest.mark.parametrize(("text", "words"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_word_that_fails_when_it_is_used_is_one_line_that_names_its_package(installed: Installed, text: str, words: str) -> None:
    installed.install("bad-package", "bad_module", text)
    study = installed.study("fine")
    assert "fine" in tree(study.arm("channel=fine"), study.reference)
    asked = installed.refused("bad")
    assert re.search(words, asked) and "the package bad-package, bad_module.Kind" in asked and not installed.logged, asked


POSITIONS = '''
from aotsearch.models.parts.position import Rotary
from aotsearch.grammar.words import word

@word("positions", "bad")
class Kind(Rotary):
    """A turn.

    u <- R u
    """

    # traits

    def __init__(self, site):
        super().__init__(site)
'''


def test_positions_that_inherit_what_laws_read_are_told_where_to_write_it(installed: Installed) -> None:
    study = installed.folder / "turned.yaml"
    study.write_text(STUDY.replace("depth: 1", "depth: 1, positions: bad").replace("WORD", "none"))
    installed.install("bad-package", "bad_module", POSITIONS)
    with pytest.raises(
        InputError, match=r"the positions word 'bad' cannot be used: the package bad-package.*`rotates = True` stands in its"
    ):
        tree(load(study).arms()[0], load(study).reference)
    (installed.folder / "site" / "bad_module.py").write_text(POSITIONS.replace("# traits", "rotates = True"))
    forget()
    assert "bad" in tree(load(study).arms()[0], load(study).reference)


def test_a_name_that_is_taken_is_left_to_whom_it_belongs(installed: Installed) -> None:
    packages = {"takes-ours": good("mlp"), "mixer-of-ours": good("glu").replace('"channel"', '"mixer"')}
    for package, text in (packages | dict.fromkeys(("first", "second"), good("twin"))).items():
        installed.install(package, f"{package.replace('-', '_')}_module", text)
    assert installed.study("fine").space.count() == installed.study("glu").space.count() == 2
    assert not library.find("channel", "mlp").package and not library.find("sublayer", "glu").package
    lines = installed.logged
    assert len(lines) == 4 and sum("is also aotsearch's own" in line for line in lines) == 2
    assert "the word is that of the package first, first_module.Kind: the channel word 'twin' is also" in installed.refused("twin")


def test_a_module_that_two_packages_name_is_read_once(installed: Installed) -> None:
    installed.install("renamed-package", "good_module", None)
    assert installed.study("fine").space.count() == 2 and not installed.logged


def test_an_arm_whose_word_fails_in_training_is_a_failed_trial(installed: Installed) -> None:
    installed.install("bad-package", "bad_module", bad("return self.output(x)", "return self.output(x) if len(x) < 2 else 1 / 0"))
    study = installed.study("bad")
    (plan,) = trial.plans(study, [(study.arm("channel=bad"), 0, None)], "design")
    record = trial.run(plan, DeviceSettings(1), lambda _: None)
    assert record["outcome"] == "failed" and record["message"].startswith("ZeroDivisionError")


def test_finding_words_imports_nothing_of_a_package(installed: Installed) -> None:
    folder = installed.folder / "site" / "outer"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "inner.py").write_text(good("deep"))
    installed.install("deep-package", "outer.inner", None)
    assert installed.study("deep").space.count() == 2 and not installed.logged


def test_commands_live_beside_a_broken_package_and_say_so_once(tmp_path: Path) -> None:
    install(tmp_path / "site", "bad-package", "bad_module", UNREADABLE["a type of Python's"][0])
    (tmp_path / "fine.yaml").write_text(STUDY.replace("WORD", "none"))
    for command in (["words"], ["check", "fine.yaml", "--json"]):
        done = aotsearch(tmp_path, *command)
        assert done.returncode == 0 and done.stdout, done.stderr
        (line,) = [line for line in done.stderr.splitlines() if "bad-package" in line]
        assert line.startswith("a word is left out: the package bad-package, bad_module.Kind: ")
    asked = aotsearch(tmp_path, "words", "bad")
    assert asked.returncode == 2 and "the word is that of the package bad-package" in asked.stderr.splitlines()[-1]


def test_the_options_of_every_sublayer_are_known_to_the_library() -> None:
    assert tuple(forms.SUBLAYER) == words.SUBLAYER_OPTIONS
