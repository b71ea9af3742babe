"""Material -> one HTML page that needs nothing from outside, or Markdown with pictures beside it: two templates of the same rows."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import markupsafe

from aotsearch.evidence.answer import answer
from aotsearch.evidence.layers import Knocked, Profile
from aotsearch.report import contents, figures
from aotsearch.report.data import Material
from aotsearch.report.figures import Figure
from aotsearch.report.summary import against_baselines, bounds, components, front_rows, front_volume, groups, named, number, view
from aotsearch.study.design import spell
from aotsearch.study.study import loss_unit

DARK = {  # colour of the figures on white paper -> on a dark page, told apart as well
    "ffffff": "#16181a",
    "000000": "#ffffff",
    "1b1b1b": "#e8e6e3",
    "6b6b6b": "#a6abb0",
    "8a8a8a": "#8e9296",
    "9a9a9a": "#7c8186",
    "b5b5b5": "#63686c",
    "c9c9c9": "#565b5f",
    "e3eef6": "#20384a",
    "c24e00": "#ff9a52",
    "0072b2": "#6fc0f2",
    "9a3b76": "#e898cb",
    "1b7f5c": "#57cfa2",
}
ARROW, MINUS = "\N{RIGHTWARDS ARROW}", "\N{MINUS SIGN}"


def html(m: Material, profiles: Sequence[Profile], knocked: Sequence[Knocked], pictures: Mapping[str, Figure]) -> str:
    """The whole report; a section is there only where there is something to show."""
    filters = {
        "significant": significant,
        "arrow": lambda text: text.replace("->", ARROW),
        "roman": lambda n: {3: "III", 4: "IV", 5: "V", 6: "VI", 7: "VII"}.get(n, str(n)),
    }
    drawn = {"interactions": ""} | {name: _picture(name, figure) for name, figure in pictures.items()}
    return template("aotsearch.report", "report.html.jinja", m.analysis.digits, _minus, filters).render(
        _rows(m, profiles, knocked), pictures=drawn, style=style()
    )


def markdown(m: Material, profiles: Sequence[Profile], knocked: Sequence[Knocked], pictures: Collection[str]) -> str:
    """The report as one Markdown file; pictures stand beside it as PNG."""
    made = template("aotsearch.report", "report.md.jinja", m.analysis.digits, trim_blocks=True, finalize=_md)
    text = made.render(_rows(m, profiles, knocked), pictures=pictures)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def template(
    package: str,
    name: str,
    digits: int,
    written: Callable[[str], str] = str,
    filters: Mapping[str, Callable[..., Any]] = {},
    **options: Any,
) -> jinja2.Template:
    """A template of a page or a file.

    Args:
        digits: Decimals of a number where the template names none.
        written: What a number in figures is made into.
        filters: Beside those that all templates have.
    """

    def one(value: float | None, places: int = digits, sign: bool = False) -> str:
        return written(number(value, places, sign))

    def two(pair: tuple[float | None, float | None], places: int = digits, sign: bool = True) -> str:
        return written(bounds(*pair, places, sign))

    environment = jinja2.Environment(autoescape=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, **options)
    environment.filters |= {"number": one, "bounds": two, "named": named, "spell": spell, "sentence": sentence, **filters}
    return environment.from_string(resources.files(package).joinpath(name).read_text("utf-8"))


def style() -> markupsafe.Markup:
    """How every page looks; on a dark one the colours of figures are those of DARK."""
    figure = " ".join(f"--f-{light}: {dark};" for light, dark in DARK.items())
    text = resources.files("aotsearch.report").joinpath("style.css").read_text("utf-8")
    return markupsafe.Markup(f"{text}@media screen and (prefers-color-scheme: dark) {{ :root {{ {figure} }} }}\n")  # nosec B704 (our own text)


def _rows(m: Material, profiles: Sequence[Profile], knocked: Sequence[Knocked]) -> dict[str, Any]:
    """What the templates show."""
    a = m.analysis
    tried, tuned = contents.tuned(m)
    sealed, beside = contents.sealed(m), contents.beside(m)
    found = contents.answered(m, components(m.headline))
    on_test = contents.of_reference(m, "test")
    return {
        "a": a,
        "study": m.study,
        "data": m.data,
        "answer": answer(m.headline),
        "components": components(a),
        "findings": found,
        "depends": any(line.verdict == "depends" for line in found),
        "views": list(dict.fromkeys(view(c) for c in a.contrasts)),
        "groups": groups(m.distinct),
        "repeated": [c for c in a.contrasts if c not in m.distinct],
        "tested": any(c.p is not None for c in a.contrasts),
        "hidden": any(c.p is None and c.seeds > 1 and c.kind != "simple" for c in m.distinct),
        "simple": any(c.kind == "simple" for c in m.distinct),
        "gain": m.headline.gain,
        "loss_unit": loss_unit(m.study),
        "interactions": sum(c.kind == "interaction" for c in a.contrasts),
        "resolution": m.study.base_design.resolution,
        "tried": tried,
        "tuned": tuned,
        "beside": beside,
        "changed": sum(one.verdict != two.verdict for _, one, two in beside),
        "sealed": sealed,
        "agreeing": sum(c.test is not None and c.test.verdict == c.verdict for _, c in sealed),
        "test": statistics.fmean(on_test) if on_test else None,
        "importance": contents.importance(m),
        "searched": contents.searched(m),
        "front": front_rows(a),
        "volume": front_volume(a),
        "baselines": against_baselines(a, m.data),
        "profiles": profiles,
        "knocked": knocked,
        "ways": list(dict.fromkeys(k.way for k in knocked)),
        "removed": contents.removed(knocked, a.contrasts),
        "fairness": contents.fairness(m),
        "paces": contents.paces(m),
        "timed_on": contents.timed_on(m),
        "resized": any(c.equalise != "none" for c in a.contrasts),
        "bad": contents.bad(a.outcomes),
        "endings": contents.endings(m),
        "failures": contents.failures(m),
        "pruned": any(r["outcome"] == "pruned" for r in m.records),
        "facts": contents.facts(m),
        "digests": list(m.table[["arm", "digest"]].drop_duplicates().itertuples(index=False)) if len(m.table) < 500 else [],
    }


# ---- words


def sentence(text: str, end: str = ".") -> str:
    return f"{text[:1].upper()}{text[1:]}{end}"


def significant(value: float, sign: bool = False) -> str:
    """Three digits, whatever the size: diagnostics have many units."""
    return _minus(f"{value:{'+' if sign else ''}.3g}")


def _minus(text: str) -> str:
    return text.replace("-", MINUS) if len(text) > 1 else text


def _picture(name: str, figure: Figure) -> markupsafe.Markup:
    """A figure in a box that scrolls, in the colours of the page: on a dark one those of DARK take the place of its own."""
    # drawn by us from text that matplotlib escapes, so it needs no second escaping
    drawn = re.sub(r"#([0-9a-f]{6})(?=[;\"])", r"var(--f-\1, #\1)", figures.to_svg(figure)).replace("-&gt;", ARROW)
    svg = markupsafe.Markup(drawn)  # nosec B704
    said = figures.SAYS[name]
    box = '<div class="scroll" tabindex="0" role="region" aria-label="{}">{}</div>'
    return markupsafe.Markup(box).format(said, svg)


def _md(value: object) -> markupsafe.Markup:
    """What a template puts out, on one line and escaped for Markdown, unless it is so already."""
    return value if isinstance(value, markupsafe.Markup) else markupsafe.Markup(escaped(str(value)))  # nosec B704 (for Markdown)


def escaped(text: str) -> str:
    """Text on one line, as Markdown shows it."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|" else c for c in " ".join(text.splitlines()))
