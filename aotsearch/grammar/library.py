"""The library of words: those of ours, and those of installed packages.

Installed packages add words through the entry-point groups `aotsearch.parts` and `aotsearch.tasks`; a study file cannot name code. What a
package gets wrong costs its own word alone: the others live, one line is logged, and what asks for that word is told why it is not there.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import logging
from collections import defaultdict
from pathlib import Path

from aotsearch.grammar.signatures import declared, name_of, read_word, read_words
from aotsearch.grammar.words import SUBLAYERS, Broken, Word

HOMES = ("models.parts", "tasks")  # folders with words of ours
GROUPS = ("aotsearch.parts", "aotsearch.tasks")  # entry points of packages with words


@functools.cache
def library() -> dict[tuple[str, str], Word]:
    """Every word, by slot and name, in reading order."""
    return _own() | {(w.slot, w.name): w for w in _installed()[0]}


def words_of(*slots: str) -> dict[str, Word]:
    """The words of some slots, by name; those of `block` are sublayers."""
    kinds = {kind for slot in slots for kind in (SUBLAYERS if slot == "block" else (slot,))}
    return {name: w for (slot, name), w in library().items() if slot in kinds}


def find(slot: str, name: str) -> Word:
    """One word; asserts that it exists, since study files are checked before."""
    known = library()
    slots = SUBLAYERS if slot in SUBLAYERS or slot == "sublayer" else (slot,)
    (found,) = [known[s, name] for s in slots if (s, name) in known]
    return found


def broken() -> tuple[Broken, ...]:
    """What installed packages offer and cannot be used, by package."""
    return _installed()[1]


def source() -> str:
    """A digest of the source of every package that has words, ours among them: what an edit changes and a version may not."""
    found = hashlib.sha256()
    for package in sorted({w.module.partition(".")[0] for w in library().values()}):
        spec = importlib.util.find_spec(package)
        assert spec is not None, package
        folders = list(map(Path, spec.submodule_search_locations or ()))
        files = [(path.relative_to(f), path) for f in folders for path in sorted(f.rglob("*.py"))]
        for name, path in files or [(Path(), _source(package))]:
            content = path.read_bytes()
            found.update(f"{package} {name} {len(content)} ".encode() + content)
    return found.hexdigest()


def why_not(name: object) -> str:
    """The tail of an unknown-word message, where a broken package has, or may have, that word."""
    named = [b for b in broken() if b.word.casefold() == str(name).casefold()] or [b for b in broken() if not b.word]
    return f"; {'the word is' if named[0].word else 'it may be'} that of {named[0]}" if named else ""


@functools.cache
def _own() -> dict[tuple[str, str], Word]:
    words: dict[tuple[str, str], Word] = {}
    root = Path(__file__).parents[1]
    for package in HOMES:
        for path in sorted(root.joinpath(*package.split(".")).glob("*.py")):
            for found in read_words(path.read_text(encoding="utf-8"), f"aotsearch.{package}.{path.stem}"):
                assert (found.slot, found.name) not in words, f"the {found.slot} word {found.name!r} is declared twice"
                words[found.slot, found.name] = found
    return words


@functools.cache
def _installed() -> tuple[tuple[Word, ...], tuple[Broken, ...]]:
    """The words of installed packages, and what is wrong with the others; said once, a line for each package."""
    words, wrong = _offered()
    alone, twins = _apart(words)
    wrong += twins
    for package in dict.fromkeys(b.package for b in wrong):
        first, *more = (b for b in wrong if b.package == package)
        logging.getLogger(__name__).warning("a word is left out: %s%s", first, f" ({len(more)} more of it)" if more else "")
    return tuple(alone), tuple(wrong)


def _offered() -> tuple[list[Word], list[Broken]]:
    """What the text of installed packages declares, each class by itself."""
    words, wrong = [], []
    for module, package in _entries().items():
        try:
            found = list(declared(_source(module).read_text(encoding="utf-8")))
        except Exception as e:  # noqa: BLE001 (a package may hold anything)
            wrong.append(Broken(package, module, f"cannot be read: {type(e).__name__}: {e}"))
            continue
        if not found:
            reason = 'it declares no word: a class at the top of the module, with the decorator written @word("slot", "name")'
            wrong.append(Broken(package, module, reason))
        for node, call in found:
            try:
                words.append(read_word(node, call, module, package))
            except Exception as e:  # noqa: BLE001
                wrong.append(Broken(package, f"{module}.{node.name}", str(e), name_of(call)))
    return words, wrong


def _apart(words: list[Word]) -> tuple[list[Word], list[Broken]]:
    """Those that have their name alone, and the others. An operation is found by its name, whichever kind of sublayer it is."""
    holders = defaultdict(list)
    for w in [*_own().values(), *words]:
        holders["sublayer" if w.slot in SUBLAYERS else w.slot, w.name].append(w)
    alone, wrong = [], []
    for w in words:
        others = [o for o in holders["sublayer" if w.slot in SUBLAYERS else w.slot, w.name] if o is not w]
        if not others:
            alone.append(w)
            continue
        whose = f"that of the package {others[0].package}" if others[0].package else "aotsearch's own"
        reason = f"the {w.slot} word {w.name!r} is also {whose} ({others[0].module}.{others[0].qualname}); give it another name"
        wrong.append(Broken(w.package, f"{w.module}.{w.qualname}", reason, w.name))
    return alone, wrong


def _entries() -> dict[str, str]:
    """The modules with words that installed packages name -> the package, the first by name where several name one."""
    found = set()
    for group in GROUPS:
        for entry in importlib.metadata.entry_points(group=group):
            package = entry.dist.name if entry.dist is not None else entry.name
            found.add((package, entry.value.partition(":")[0].strip()))
    modules: dict[str, str] = {}
    for package, module in sorted(found):
        modules.setdefault(module, package)
    return modules


def _source(module: str) -> Path:
    """The source file of a module, found without importing the packages around it."""
    first, *inner = module.split(".")
    spec = importlib.util.find_spec(first)
    name = first
    for part in inner:
        name = f"{name}.{part}"
        spec = importlib.machinery.PathFinder.find_spec(name, spec.submodule_search_locations) if spec is not None else None
    if spec is None:
        raise ModuleNotFoundError(f"there is no module {name}")
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise ImportError("its signatures are read from source text, and it has none")
    return Path(spec.origin)
