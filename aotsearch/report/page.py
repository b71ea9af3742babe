"""Material -> one HTML page that needs nothing from outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import markupsafe
import pandas as pd

from aotsearch.evidence.analysis import answer
from aotsearch.evidence.contrast import Contrast
from aotsearch.evidence.layers import Knocked, Profile
from aotsearch.evidence.tables import search_table
from aotsearch.report import contents, figures
from aotsearch.report.data import Material
from aotsearch.report.figures import Figure
from aotsearch.report.summary import Component, against_baselines, bounds, components, groups, number, view
from aotsearch.study.design import spell
from aotsearch.study.study import loss_unit

TALLY = ("necessary", "redundant", "harmful", "depends", "present", "undecided", "absent")
ARROW, MINUS = "\N{RIGHTWARDS ARROW}", "\N{MINUS SIGN}"


def page(m: Material, profiles: Sequence[Profile], knocked: Sequence[Knocked], pictures: Mapping[str, Figure]) -> str:
    """The whole report; a section is there only where there is something to show."""
    a = m.analysis
    environment = jinja2.Environment(autoescape=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {
        "number": _number(a.digits),
        "bounds": _bounds(a.digits),
        "significant": significant,
        "arrow": lambda text: text.replace("->", ARROW),
        "spell": spell,
        "sentence": sentence,
        "roman": lambda n: {3: "III", 4: "IV", 5: "V", 6: "VI", 7: "VII"}.get(n, str(n)),
        "framed": lambda svg: markupsafe.Markup('<figure><div class="scroll">{}</div></figure>').format(svg),
    }
    template = environment.from_string(resources.files("aotsearch.report").joinpath("report.html.jinja").read_text("utf-8"))
    tried, tuned = contents.tuned(m)
    sealed, beside = contents.sealed(m), contents.beside(m)
    words = tally(components(a))
    fairness = contents.fairness(m)
    return template.render(
        a=a,
        study=m.study,
        data=m.data,
        answer=answer(m.headline),
        components=components(a),
        tally=words.items(),
        words=words,
        views=list(dict.fromkeys(view(c) for c in a.contrasts)),
        groups=groups(m.distinct),
        repeated=[c for c in a.contrasts if c not in m.distinct],
        tested=any(c.p is not None for c in a.contrasts),
        hidden=any(c.p is None and c.seeds > 1 and c.kind != "simple" for c in m.distinct),
        simple=any(c.kind == "simple" for c in m.distinct),
        gain=contents.gain(m.distinct),
        loss_unit=loss_unit(m.study),
        pictures={name: _picture(figure) for name, figure in pictures.items()} | {"interactions": _optional(pictures, "interactions")},
        interactions=sum(c.kind == "interaction" for c in a.contrasts),
        resolution=m.study.base_design.resolution,
        tried=tried,
        tuned=tuned,
        beside=beside,
        changed=sum(one.verdict != two.verdict for _, one, two in beside),
        sealed=sealed,
        agreeing=sum(s.agrees for s in sealed),
        test=contents.reference_test(m),
        importance=sorted(((k, v) for k, v in m.importance.get("shares", {}).items() if v is not None), key=lambda pair: -pair[1]),
        searched=searched(m),
        baselines=against_baselines(a, m.data),
        profiles=profiles,
        knocked=knocked,
        ways=list(dict.fromkeys(k.way for k in knocked)),
        removed=removed(knocked, a.contrasts),
        fairness=fairness,
        resized=any(c.equalise != "none" for c in a.contrasts),
        bad=contents.bad(a.outcomes),
        endings=contents.endings(m),
        failures=contents.failures(m),
        noise=contents.noise(m),
        facts=contents.facts(m),
        digests=list(m.table[["arm", "digest"]].drop_duplicates().itertuples(index=False)) if len(m.table) < 500 else [],
    )


def tally(found: Sequence[Component]) -> dict[str, list[Component]]:
    """Verdict -> the components that it holds for."""
    return {word: [k for k in found if k.verdict == word] for word in TALLY}


def removed(knocked: Sequence[Knocked], contrasts: Sequence[Contrast]) -> list[tuple[str, dict[str, Knocked], Contrast | None]]:
    """Each part that was switched off: by way, and the contrast of the arm that was trained without it."""
    arms = {c.arm: c for c in contrasts if c.asked and c.kind == "change"}
    parts: dict[str, dict[str, Knocked]] = {}
    for k in knocked:
        parts.setdefault(k.part, {})[k.way] = k
    return [(part, ways, arms.get(next(iter(ways.values())).retrained)) for part, ways in parts.items()]


def searched(m: Material, top: int = 20) -> list[dict[str, Any]]:
    """The best architectures of a search, each with the decisions in which it differs from the reference."""
    if not m.search:
        return []
    table, reference = search_table(m.records, m.study).head(top), m.study.reference.decisions
    rows = []
    for _, series in table.iterrows():
        row = {str(k): v for k, v in series.items()}
        decisions = {k: row[k] for k in reference if k in row and not pd.isna(row[k]) and row[k] != reference[k]}
        value = row[m.analysis.measure]
        rows.append(
            {**row, "value": None if pd.isna(value) else value, "changes": ", ".join(f"{k}={spell(v)}" for k, v in decisions.items())}
        )
    return rows


# ---- words


def sentence(text: str, end: str = ".") -> str:
    return f"{text[:1].upper()}{text[1:]}{end}"


def significant(value: float, sign: bool = False) -> str:
    """Three digits, whatever the size: diagnostics have many units."""
    return _minus(f"{value:{'+' if sign else ''}.3g}")


def _number(digits: int) -> Callable[..., str]:
    def show(value: float | None, places: int = digits, sign: bool = False) -> str:
        return _minus(number(value, places, sign))

    return show


def _bounds(digits: int) -> Callable[..., str]:
    def show(pair: tuple[float | None, float | None], sign: bool = True) -> str:
        return _minus(bounds(*pair, digits, sign))

    return show


def _minus(text: str) -> str:
    return text.replace("-", MINUS) if len(text) > 1 else text


def _picture(figure: Figure) -> markupsafe.Markup:
    # drawn by us from text that matplotlib escapes, so it needs no second escaping
    return markupsafe.Markup(figures.to_svg(figure).replace("-&gt;", ARROW))


def _optional(pictures: Mapping[str, Figure], name: str) -> markupsafe.Markup | str:
    return _picture(pictures[name]) if name in pictures else ""
