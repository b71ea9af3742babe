"""A study file as JSON Schema, so that an editor completes words, explains them on hover and underlines misspelt ones.

Words, options and settings are read from where they are declared; only the forms of the grammar are described here. The schema keeps to
what every yaml-language-server reads alike, draft-07 or 2020-12: nothing beside a `$ref`, no tuples, no discriminators, and each word is
an `anyOf` branch with `const` and `description`. A bare string may be the name of a rule of the same file, which a schema cannot look
up, so a misspelt word is found only where it is a key; `aotsearch check` finds it everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pydantic
from pydantic.json_schema import GenerateJsonSchema

from aotsearch.grammar import library
from aotsearch.grammar.forms import MODEL, SUBLAYER, TIMES, Place
from aotsearch.grammar.labels import LONGEST
from aotsearch.grammar.parser import MAX_LIMIT, RULE_NAME
from aotsearch.grammar.words import NEEDED, NONE, Option, Word
from aotsearch.study.settings import StudySettings

Schema = dict[str, Any]

ABSENT = "The part that is not there."
FILE = {"type": "string", "pattern": r"\.ya?ml$"}
FLAG = {"type": "boolean", "default": False}
PAIR = {"type": "array", "minItems": 2, "maxItems": 2}
ONE = {"minProperties": 1, "maxProperties": 1}

# What stands in a slot, and what an option of `model` means where that is not all of it.
SLOTS = {
    "block": "Sublayers: one, or a sequence of them.",
    "norm": "The norm of every sublayer that does not name its own.",
    "join": "How the output of an operation enters the residual stream.",
    "embedding": "How what the task gives becomes the residual stream.",
    "positions": "How a token knows its place.",
    "pooling": "How the tokens become one before the head; none leaves them as they are.",
    "final_norm": "The norm between the last sublayer and the head.",
    "blocks": "All sublayers of the model, in which `repeat` and `each` may stand; instead of `depth` with `block`.",
}


def text() -> str:
    """The schema as `aotsearch schema` prints it."""
    return json.dumps(schema(), indent=1, allow_nan=False)


def schema() -> Schema:
    """The JSON Schema of a study file."""
    settings, nested = _settings()
    sections = {
        "name": _said("Names the study, its run folder and its MLflow experiment: letters, digits, space, '_', '-'.", type="string"),
        "question": _said("What the study asks, for the report.", type="string"),
        "space": _said("Another study file that this one builds on: its sections and rules hold where this one has none.", **FILE),
        "task": _ref("task"),
        "grammar": _ref("grammar"),
        "study": settings,
    }
    model = _mapping(_properties("model", MODEL), description="The rule that the grammar starts at; depth with block, or blocks.")
    starts = {"grammar": _grammar(), "model": model, "rule": _rule()}
    rules = {"anyOf": [{"required": ["model"]}, {"required": ["include"]}]}
    complete = {"required": ["name", "task", "grammar"], "properties": {"grammar": rules}}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **_mapping(sections, description="A question about transformers, the models it is asked of, and how the evidence is gathered."),
        "anyOf": [complete, {"required": ["space"]}],
        "definitions": starts | _forms() | _slots() | _tasks() | _values() | nested,
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


def _said(description: str, *branches: Schema, **more: Any) -> Schema:
    return {"description": description, **more} | ({"anyOf": list(branches)} if branches else {})


def _mapping(properties: Mapping[str, Schema], *required: str, **more: Any) -> Schema:
    needs = {"required": list(required)} if required else {}
    return {"type": "object", "additionalProperties": False, "properties": dict(properties), **needs, **more}


def _list(items: Schema, description: str, **more: Any) -> Schema:
    return {"description": description, "type": "array", "items": items, **more}


def _consts(named: Iterable[tuple[Any, str]]) -> list[Schema]:
    """A branch for each value; what is said of one value in several places is said together."""
    texts: dict[Any, list[str]] = {}
    for value, description in named:
        texts.setdefault(value, []).append(description)
    return [_said("\n\n".join(dict.fromkeys(found)), const=value) for value, found in texts.items()]


def _grammar() -> Schema:
    path = _said("A file of rules, in the folder of the study or below it.", **FILE)
    law = _said("An expression over decisions and sizes, such as `width % heads == 0` or `parameters <= 2_000_000`.", type="string")
    known = {
        "model": _ref("model"),
        "include": _said(
            "Files whose rules are added to these; a rule given here goes before theirs.", path, {"type": "array", "items": path}
        ),
        "constraints": _list(law, "Expressions that must hold for every architecture."),
    }
    more = {"propertyNames": {"pattern": f"^{RULE_NAME.pattern}$"}, "additionalProperties": _ref("rule")}
    return _mapping(known, description="Rules by name; `model` is where the grammar starts.", **more)


def _rule() -> Schema:
    """What a rule may stand for: anything that may stand in any slot or option."""
    words = [(w.name, f"{w.slot}: {_about(w)}") for slot in _slots_of_grammar() for w in _words(slot)]
    literals = [(literal, f"{o.name}: {o.description}") for o in _options().values() for literal in o.literals]
    scalars: list[Schema] = [{"type": "number"}, {"type": "boolean"}]
    components = [_ref(f"{slot}.component") for slot in _slots_of_grammar()]
    several = map(_ref, ("repeat", "each", "parallel", "range", "int", "name"))
    forms = [_any(_ref("rule")), _list(_ref("block"), "Sublayers in order."), *several]
    known = _consts([*words, (NONE, ABSENT), *literals])
    return _said("A rule: what its name stands for wherever it is used, decided once.", *known, *scalars, *components, *forms)


def _any(place: Schema) -> Schema:
    labelled = _mapping({"label": _ref("label"), "value": _said("What the label names.", place)}, "label", "value")
    alternatives = _list({"anyOf": [place, labelled]}, "A decision between these alternatives; the first is the reference.", minItems=1)
    limit = _said("How deep a rule that leads back to itself may stand within itself.", type="integer", minimum=1, maximum=MAX_LIMIT)
    return _mapping({"any": alternatives, "limit": limit}, "any")


def _forms() -> dict[str, Schema]:
    """The forms that are the same wherever they stand."""
    of = _said("What is repeated.", _ref("block"))
    same = _said("The same sublayers, so many times.", _ref("times"))
    anew = _said("So many places, at each of which `of` is decided anew.", _ref("times"))
    tied = _said("One set of weights, applied so many times.", **FLAG)
    beside = _list(_ref("block"), "Sublayers that read the same input; each is one sublayer or none.", minItems=1)
    return {
        "label": _said("What tables, names of arms and expressions call this alternative.", type="string", minLength=1, maxLength=LONGEST),
        "parallel": _mapping({"parallel": beside}, "parallel"),
        "name": _said("The name of a rule: whatever that rule stands for.", type="string", pattern=f"^{RULE_NAME.pattern}$"),
        "range": _between("range", "number", "A number"),
        "int": _between("int", "integer", "A whole number"),
        "repeat": _mapping({"repeat": same, "of": of, "tied": tied}, "repeat", "of"),
        "each": _mapping({"each": anew, "of": of, "share": _list(_ref("name"), "Rules with one decision for all places.")}, "each", "of"),
    }


def _between(form: str, kind: str, what: str) -> Schema:
    bounds = _said(f"{what} from low to high, for search: [low, high].", items={"type": kind}, **PAIR)
    return _mapping({form: bounds, "log": _said("Whether the search draws on a logarithmic scale.", **FLAG)}, form)


def _slots_of_grammar() -> list[str]:
    """The slots of the model and of a sublayer, then those of the options of their words."""
    found = [place for place in (*MODEL.values(), *SUBLAYER.values()) if isinstance(place, str)]
    for slot in found:  # grows while it is read
        found += [o.slot for w in _words(slot) for o in w.options.values() if o.slot and o.slot not in found]
    return list(dict.fromkeys(found))


def _words(slot: str) -> list[Word]:
    return list(library.words_of(slot).values())


def _slots() -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for slot in _slots_of_grammar():
        words = _words(slot)
        own = _properties("sublayer", SUBLAYER) if slot == "block" else {}
        found |= {_id(w): _word(w, _properties(_id(w), w.options) | own) for w in words}
        none = {} if slot in NEEDED else {NONE: _said(ABSENT, type=["object", "null"], maxProperties=0)}
        found[f"{slot}.component"] = _mapping({w.name: _ref(_id(w)) for w in words} | none, **ONE)
        rows = [_list(_ref(slot), "Sublayers in order."), *map(_ref, ("repeat", "each", "parallel"))] if slot == "block" else []
        forms = [_ref(f"{slot}.component"), *rows, _any(_ref(slot)), _ref("name")]
        found[slot] = {"anyOf": [*_bare(words), *_consts((name, ABSENT) for name in none), *forms]}
    return found


def _tasks() -> dict[str, Schema]:
    """The task and its words; their options are plain values, since a task is not searched over."""
    words = _words("task")
    found = {_id(w): _word(w, {o.name: _option(o, *_types(o)) for o in w.options.values()}) for w in words}
    mapping = _mapping({w.name: _ref(_id(w)) for w in words}, **ONE)
    return {"task": _said("What the models are trained on.", *_bare(words), mapping), **found}


def _id(word: Word) -> str:
    return f"{word.slot}.{word.name}"


def _word(word: Word, properties: Mapping[str, Schema]) -> Schema:
    required = [o.name for o in word.options.values() if o.required]
    kind = "object" if required else ["object", "null"]  # `word:` with nothing after it is the word at its defaults
    return _mapping(properties, *required, description=_about(word), type=kind)


def _bare(words: list[Word]) -> list[Schema]:
    """The words that may stand without options."""
    return _consts((w.name, _about(w)) for w in words if not any(o.required for o in w.options.values()))


def _about(word: Word) -> str:
    requires = f"Requires: {'; '.join(word.requires)}." if word.requires else ""
    return "\n\n".join(filter(None, (word.summary, word.formula, requires, word.source and f"Source: {word.source}")))


def _properties(owner: str, declared: Mapping[str, Place]) -> dict[str, Schema]:
    slots = {k: _said(SLOTS.get(k, SLOTS.get(p, p)), _ref(p)) for k, p in declared.items() if isinstance(p, str)}
    return {k: slots.get(k, _ref(f"{owner}.{k}")) for k in declared}


def _options() -> dict[str, Option]:
    """Every option that a grammar can decide, by the name of its definition."""
    owners: dict[str, Mapping[str, Place]] = {_id(w): w.options for slot in _slots_of_grammar() for w in _words(slot)}
    owners |= {"model": MODEL, "sublayer": SUBLAYER}
    found = {f"{owner}.{k}": p for owner, declared in owners.items() for k, p in declared.items() if isinstance(p, Option)}
    return found | {"times": TIMES}


def _values() -> dict[str, Schema]:
    """Each option with the forms it may have: its values, a decision, a range where it is a number, the name of a rule."""
    found = {}
    for name, option in _options().items():
        types = _types(option)
        ranges = [_ref("int"), _ref("range")] if any(t.get("type") in ("integer", "number") for t in types) else []
        parts = [*_bare(_words(option.slot)), _ref(f"{option.slot}.component")] if option.slot else []
        found[name] = _option(option, *types, *parts, _any(_ref(name)), *ranges, _ref("name"))
    return found


def _option(option: Option, *branches: Schema) -> Schema:
    default = {} if option.required else {"default": option.default}
    return _said(f"{option.description}\n\nIs {option.law}.", *branches, **default)


def _types(option: Option) -> list[Schema]:
    """The plain values of an option, each literal as a branch of its own."""
    if option.type is None:
        return []
    whole = pydantic.TypeAdapter(option.type).json_schema()
    literals = _consts((literal, f"{option.name}: {option.description}") for literal in option.literals)
    others = [t for t in whole.get("anyOf", [whole]) if "const" not in t and "enum" not in t]
    return literals + [{k: v for k, v in t.items() if k != "divides"} for t in others]


class _Untitled(GenerateJsonSchema):
    """Without titles: they repeat the key and push the description down in an editor's hover."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _settings() -> tuple[Schema, dict[str, Schema]]:
    """The `study` section, and the settings nested in it as definitions."""
    whole = StudySettings.model_json_schema(schema_generator=_Untitled, ref_template="#/definitions/study.{model}")
    nested = {f"study.{name}": found for name, found in whole.pop("$defs", {}).items()}
    for found in (whole, *nested.values()):
        del found["title"]
        for name, option in found["properties"].items():
            if "$ref" in option:  # draft-07 ignores what stands beside one
                ref = option.pop("$ref")
                about = nested[ref.rpartition("/")[2]]["description"]
                found["properties"][name] = _said(about, allOf=[{"$ref": ref}]) | option
    return whole, nested
