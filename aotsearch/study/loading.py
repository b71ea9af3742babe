"""A study file and overrides -> Study: its sections, what it builds on, and every error at its place.

load("spaces/redundancy.yaml") -> Study
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aotsearch import yamlfile
from aotsearch.diagnostics import catalogue
from aotsearch.errors import InputError, Mark, Problem, suggest
from aotsearch.files import from_user
from aotsearch.grammar import include, library
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.space import Space
from aotsearch.study import sampling
from aotsearch.study import settings as study_settings
from aotsearch.study.study import Study
from aotsearch.yamlfile import Node

SECTIONS = ("name", "question", "space", "task", "grammar", "study")


def load(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read and check a study file.

    Args:
        path: A YAML file.
        overrides: `path=value` texts that replace parts of it, such as `study.budget.steps=100`.

    Raises:
        InputError: with every problem found, each with its place.
    """
    path = from_user(path)
    node = yamlfile.read(path)
    for override in overrides:
        node = override_node(node, override)
    return parse(node, path.resolve().parent)


def from_plain(plain: Mapping[str, Any], folder: str | Path = ".") -> Study:
    """A study from what its file would hold, as plain Python data.

    Raises:
        InputError: as `load`; a place is told by the keys that lead there.
    """
    return parse(yamlfile.from_plain(plain, "study"), from_user(folder).resolve())


def override_node(node: Node, override: str) -> Node:
    """A study node with one `path=value` applied."""
    path, sign, value = override.partition("=")
    origin = Mark(f"--set {override}")
    keys = path.strip().split(".")
    if not sign or not all(keys):
        raise InputError("--set takes path=value, such as study.seeds=8", origin)
    if keys[0] not in SECTIONS:
        raise InputError(f"a study has no section {keys[0]!r}{suggest(keys[0], SECTIONS)}", origin)
    text = value.strip()
    sentence = keys == ["question"] and text[:1] not in ('"', "'")  # whatever it has of what means something in YAML
    found = Node(text, Mark(origin.file, 1, 1, text, len(text))) if sentence else yamlfile.parse_value(text, origin.file)
    node = yamlfile.replace(node, keys, found, origin)
    if keys[0] == "grammar":  # rules of the file to which only what was replaced led are not misspelt, but of another place
        rules = node.value["grammar"]
        node = Node(node.value | {"grammar": Node(rules.value, origin, rules.keys)}, node.mark, node.keys)
    return node


def parse(node: Node, folder: Path) -> Study:
    """A study node, checked; `folder` is where relative data paths start."""
    if not isinstance(node.value, dict):
        raise InputError(f"a study is a mapping with {', '.join(SECTIONS)}, not {node.kind}", node.mark)
    node = resolve(node, folder)
    problems = [
        Problem(f"a study has no section {key!r}{suggest(key, SECTIONS)}", node.keys[key]) for key in node.value if key not in SECTIONS
    ]
    problems += [Problem(f"a study needs the section {key!r}", node.mark) for key in ("name", "task", "grammar") if key not in node.value]

    def attempt(function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except InputError as e:
            problems.extend(e.problems)
            return None

    sections = node.value
    name = attempt(_name, sections["name"]) if "name" in sections else None
    question = attempt(_text, sections["question"], "question") if "question" in sections else ""
    task = attempt(_task, sections["task"], folder) if "task" in sections else None
    settings = attempt(study_settings.parse, sections.get("study", Node({}, node.mark)))
    sizes = task.sizes if task is not None else {"vocabulary": 2, "context": 2}
    space = attempt(Space.parse, sections["grammar"], sizes, measured) if "grammar" in sections else None
    if problems:
        raise InputError(dict.fromkeys(problems))
    assert name is not None and space is not None and task is not None
    study = Study(name, question, task, space, settings, _resolved(node, space) | {"task": task.to_plain()})
    for wanted in settings.search.hints:
        if wanted not in catalogue.hints():
            raise InputError(f"no hint {wanted!r}{suggest(wanted, catalogue.hints())}", _search_mark(node, "hints"))
    known = {task.measure, *sampling.COSTS, *catalogue.catalogue(), *catalogue.hints()}
    for wanted, _ in study.goals:
        if wanted not in known:
            raise InputError(f"no objective {wanted!r}{suggest(wanted, known)}", _search_mark(node, "objectives"))
    if settings.search.stop == "expected-improvement" and [name for name, _ in study.goals] != [task.measure]:
        law = f"expected-improvement is of the measure {task.measure} alone, which the margin is of"
        raise InputError(f"search.stop: {law}; with other objectives give a number of trials", _search_mark(node, "stop"))
    try:
        study.base_design  # noqa: B018 (arms that cannot be are errors of the file)
    except InputError as e:
        raise e.at(_arms_mark(node)) from None
    arms = [arm.name for arm in study.base_design.arms]
    for name in settings.search.first:
        if isinstance(name, str) and name not in arms:
            raise InputError(f"search.first: no arm {name!r}{suggest(name, arms)}", _search_mark(node, "first"))
    return study


def _resolved(node: Node, space: Space) -> dict[str, Any]:
    """The study as one file, which is read by itself again: of other files only those rules that are used."""
    plain: dict[str, Any] = node.plain()
    kept = {"constraints", *space.form.used}
    return plain | {"grammar": {name: rule for name, rule in plain["grammar"].items() if name in kept}}


def measured(architecture: Architecture) -> Mapping[str, int]:
    """What a model costs: the one thing of a study that needs torch, which is loaded when a constraint or an equal size asks for it."""
    from aotsearch.models.cost import cost

    return vars(cost(architecture))


def resolve(node: Node, folder: Path, depth: int = 0) -> Node:
    """A study node with the space it builds on and the rules it includes written into it.

    `space: FILE` names another study file: its sections hold where this one has none. Of `study` and of the rule `model` single keys are
    replaced, of `grammar` whole rules, and a task as a whole.
    """
    if "grammar" in node.value:
        rules = include.gather(node.value["grammar"], folder)
        node = Node(node.value | {"grammar": rules}, node.mark, node.keys)
    if "space" not in node.value:
        return node
    given = node.value["space"]
    if not isinstance(given.value, str) or not given.value.endswith((".yaml", ".yml")):
        raise InputError(f"space names a .yaml file, not {given.kind}", given.mark)
    if depth > 8:
        raise InputError("a study that builds on a space that builds on a space ...: 8 at most", given.mark)
    path = folder / from_user(given.value)
    base = yamlfile.read(path)
    if not isinstance(base.value, dict):
        raise InputError(f"a study is a mapping with {', '.join(SECTIONS)}, not {base.kind}", base.mark)
    base = resolve(base, path.parent, depth + 1)
    merged = {k: v for k, v in base.value.items() if k not in ("name", "question")} | {k: v for k, v in node.value.items() if k != "space"}
    for section in ("study", "grammar"):
        if section in node.value and section in base.value:
            merged[section] = _merge(base.value[section], node.value[section], ("model",) if section == "grammar" else None)
    return Node(merged, node.mark, base.keys | node.keys)


def _merge(base: Node, over: Node, deep: tuple[str, ...] | None) -> Node:
    """One mapping over another: key by key, and within the keys in `deep` (all, if None) again."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    merged = dict(base.value)
    for key, value in over.value.items():
        inside = key in base.value and (deep is None or key in deep)
        merged[key] = _merge(base.value[key], value, None if deep is None else ()) if inside else value
    return Node(merged, over.mark, base.keys | over.keys)


def _arms_mark(node: Node) -> Mark:
    section = node.value.get("study", node)
    arms = section.value.get("arms", section) if isinstance(section.value, dict) else section
    mark: Mark = arms.mark
    return mark


def _search_mark(node: Node, key: str) -> Mark:
    mark: Mark = node.value["study"].value["search"].value[key].mark
    return mark


def _text(node: Node, what: str) -> str:
    if not isinstance(node.value, str):
        raise InputError(f"{what} is a string, not {node.kind}", node.mark)
    return node.value


def _name(node: Node) -> str:
    name = _text(node, "name")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,99}", name):  # it names a folder and an MLflow experiment
        raise InputError(f"name is made of letters, digits, space, '_' and '-', not {name!r}", node.mark)
    return name


def _task(node: Node, folder: Path) -> Any:
    words = library.words_of("task")
    if isinstance(node.value, dict) and len(node.value) == 1:
        ((name, inner),) = node.value.items()
        mark = node.keys[name]
    else:
        name, inner, mark = node.value, Node({}, node.mark), node.mark
    if not isinstance(name, str) or name not in words:
        unknown = f"unknown task {name!r}{suggest(name, words)}{library.why_not(name)}"
        raise InputError(unknown if isinstance(name, str) else "task is {word: {...}}", mark)
    given = {} if inner.value is None else inner.value
    if not isinstance(given, dict):
        raise InputError(f"the options of {name} are a mapping, not {inner.kind}", inner.mark)
    declared, options, problems = words[name].options, {}, []
    for key, value in given.items():
        try:
            if key not in declared:
                raise ValueError(f"{name} has no option {key!r}{suggest(key, declared)}")
            options[key] = declared[key].parse(value.plain())
        except ValueError as e:
            problems.append(Problem(str(e), value.mark if key in declared else inner.keys[key]))
    if problems:
        raise InputError(problems)
    try:
        return words[name].make(folder, **options)
    except ValueError as e:
        raise InputError(str(e), given["data"].mark if "data" in given else mark) from None
