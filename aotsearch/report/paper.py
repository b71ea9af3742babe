"""Material -> Markdown and LaTeX, for what people write."""

from __future__ import annotations

from collections.abc import Sequence

from aotsearch.evidence.analysis import answer
from aotsearch.evidence.contrast import Contrast
from aotsearch.evidence.layers import Knocked, Profile
from aotsearch.report import contents
from aotsearch.report.data import Material
from aotsearch.report.summary import against_baselines, bounds, groups, number
from aotsearch.study.design import spell
from aotsearch.study.study import loss_unit

REMOVED_SPACE = str.maketrans({"\n": " ", "\r": " "})


def named(c: Contrast) -> str:
    """A contrast's title, with its changes where the title does not say them."""
    return f"{c.title} ({c.change})" if len(c.changes) > 1 and c.kind == "change" else c.title


# ---- Markdown


def markdown(m: Material, profiles: Sequence[Profile], knocked: Sequence[Knocked], pictures: Sequence[str]) -> str:
    """The report as one Markdown file; pictures stand beside it as PNG."""
    a = m.analysis
    problems = [[r["arm"], r["seed"], r["outcome"], r["message"], r["key"]] for r in contents.failures(m)]
    parts = [
        f"# {_md(a.name)}",
        *(f"> **Declaration:** {_md(change)}" for change in a.declaration),
        *(f"> **Warning:** {_md(warning)}" for warning in a.warnings),
        _md(a.question),
        f"**{_md(answer(m.headline))}**",
        *(f"> {_md(note)}" for note in a.notes),
        "## What each part is worth",
        "![effects with intervals](forest.png)",
        *_effects(m),
        "\n".join(f"- {_md(line)}" for line in [*against_baselines(a, m.data), *_noise(m)]),
        *([_picture("interactions", "which changes act together")] if "interactions" in pictures else []),
        *_rates(m),
        *_sealed(m),
        *_depth(profiles, pictures),
        *_knocked(knocked, m),
        "## Learning, and what it costs",
        _picture("curves", f"learning curves: validation in {a.unit}, training loss in {loss_unit(m.study)}"),
        _picture("loss-against-parameters", "quality against parameters"),
        _picture("loss-against-flops", "quality against FLOPs"),
        "## What each arm was given",
        _given(m),
        "## How the trials ended",
        _outcomes(m),
        *([_md_table(["arm", "seed", "outcome", "reason", "key"], problems)] if problems else []),
        *_aliases(m),
        "## Method",
        _md(a.method),
        "## To repeat it",
        _md_table(["", ""], [list(pair) for pair in contents.facts(m)]),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _picture(name: str, words: str) -> str:
    return f"![{words}]({name}.png)"


def _effects(m: Material) -> list[str]:
    a, digits, parts = m.analysis, m.analysis.digits, []
    head = ["change", f"difference, {a.unit}", f"{100 * a.confidence:g}% interval", "seeds", "verdict", "remark"]
    sets = groups(m.distinct)
    for heading, contrasts in sets:
        rows = [
            [named(c), number(c.difference, digits, True), bounds(c.low, c.high, digits), c.seeds, f"**{c.verdict}**", c.remark]
            for c in contrasts
        ]
        parts += [f"### {_md(heading)}"] if len(sets) > 1 else []
        parts.append(_md_table(head, rows))
    return parts or [_md_table(head, [])]


def _noise(m: Material) -> list[str]:
    found, a = contents.noise(m), m.analysis
    if found is None:
        return []
    unit, digits = a.unit, a.digits
    lines = [
        f"Noise floor (sd of the reference over {found.seeds} seeds): {number(found.sd, digits + 1)} {unit}; two single runs of it differ "
        f"by less than {number(found.difference, digits)} {unit} with {100 * a.confidence:g} % probability."
    ]
    gain = contents.gain(a.contrasts)
    return lines + ([f"Pairing by seed made differences {gain[0]:.1f} times less noisy in the median."] if gain else [])


def _rates(m: Material) -> list[str]:
    tried, rows = contents.tuned(m)
    if not rows:
        return []
    digits = m.analysis.digits
    table = [
        [
            row.arm,
            *(("failed" if row.at[r] is None else number(row.at[r], digits)) if r in row.at else "" for r in tried),
            "-" if row.chosen is None else f"{row.chosen:g}",
            row.doubt,
        ]
        for row in rows
    ]
    both = [
        [name, one.verdict, number(one.difference, digits, True), two.verdict, number(two.difference, digits, True), _changed(one, two)]
        for name, one, two in contents.beside(m)
    ]
    return [
        "## Each at its own learning rate",
        _md_table(["change", "own rate", "difference", "shared rate", "difference", ""], both),
        _md_table(["arm", *(f"{r:g}" for r in tried), "own rate", ""], table),
    ]


def _changed(one: Contrast, two: Contrast) -> str:
    return "**another**" if one.verdict != two.verdict else ""


def _sealed(m: Material) -> list[str]:
    digits = m.analysis.digits
    rows = [
        [
            s.name,
            f"{number(s.contrast.difference, digits, True)} {bounds(s.contrast.low, s.contrast.high, digits)}",
            f"{number(s.difference, digits, True)} {bounds(s.low, s.high, digits)}",
            s.contrast.verdict,
            "the same" if s.agrees else s.verdict,
        ]
        for s in contents.sealed(m)
    ]
    return ["## On the test split", _md_table(["change", "validation", "test", "verdict", "test alone"], rows)] if rows else []


def _depth(profiles: Sequence[Profile], pictures: Sequence[str]) -> list[str]:
    if not profiles:
        return []
    rows = []
    for p in profiles:
        arms = [f"{arm} ({found} of {compared} layers)" if compared else arm for arm, _, found, compared in p.differing]
        rows.append([p.name, p.about.summary if p.about else "", ", ".join(arms) or "-"])
    head = ["diagnostic", "what it says", "differs from the reference in"]
    return ["## Inside the models, by depth", _picture("diagnostics", "diagnostics by depth"), _md_table(head, rows)]


def _knocked(knocked: Sequence[Knocked], m: Material) -> list[str]:
    if not knocked:
        return []
    digits = m.analysis.digits
    contrasts = {c.arm: c for c in m.analysis.contrasts if c.asked and c.kind == "change"}
    rows = []
    for k in knocked:
        c = contrasts.get(k.retrained) if k.way == "zero" else None
        beside = f"{number(c.difference, digits, True)} {bounds(c.low, c.high, digits)} {c.verdict}" if c else ""
        rows.append([k.part, k.way, number(k.increase, digits, True), bounds(k.low, k.high, digits), k.seeds, beside])
    head = ["part", "way", f"increase, {m.analysis.unit}", "interval", "seeds", "trained without it"]
    return ["## Removed after training, or trained without", _picture("knock-out", "knock-out"), _md_table(head, rows)]


def _given(m: Material) -> str:
    rows = [
        [
            g.arm + _shared(g, m),
            _whole(g.parameters),
            "-" if g.share is None else f"{100 * g.share:+.1f}%",
            _whole(g.flops_per_token),
            "-" if g.flops_share is None else f"{100 * g.flops_share:+.1f}%",
            _whole(g.tokens),
            spell(g.learning_rate),
            ", ".join(filter(None, [g.resized, *(f"also {other}" for other in g.also)])),
            number(g.seconds, 1),
        ]
        for g in contents.fairness(m)
    ]
    head = ["arm", "parameters", "to reference", "FLOPs per token", "to reference", "tokens", "learning rate", "re-sized", "seconds"]
    return _md_table(head, rows)


def _shared(g: contents.Given, m: Material) -> str:
    return " (shared rate)" if g.rate != m.analysis.rate else ""


def _outcomes(m: Material) -> str:
    kinds = contents.bad(m.analysis.outcomes)
    rows = [[e.arm, e.trials, e.done, *(_rate(e.rates[kind]) for kind in kinds)] for e in contents.endings(m)]
    return _md_table(["arm", "trials", "done", *kinds], rows)


def _rate(share: contents.Share | None) -> str:
    return "-" if share is None else f"{share.count}, {100 * share.rate:.0f}% (interval {100 * share.low:.0f} to {100 * share.high:.0f}%)"


def _aliases(m: Material) -> list[str]:
    rows = [[effect, ", ".join(others) or "nothing"] for effect, others in m.analysis.aliases]
    if not rows:
        return []
    return [
        "## What this fraction can not tell apart",
        f"Resolution {m.study.base_design.resolution}.",
        _md_table(["effect", "aliases"], rows),
    ]


def _whole(value: int | None) -> str:
    return "-" if value is None else f"{int(value):,}"


def _md(text: object) -> str:
    plain = str(text).translate(REMOVED_SPACE)
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|" else c for c in plain)


def _md_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [list(head), ["---"] * len(head), *([str(v) if str(v).startswith("**") else _md(v) for v in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ---- LaTeX

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


def escape(text: object) -> str:
    """Text as LaTeX shows it, arrows as arrows."""
    pieces = str(text).translate(REMOVED_SPACE).split("->")
    return r"$\to$".join("".join(LATEX.get(c, c) for c in piece).replace("--", "-{}-") for piece in pieces)


def latex(m: Material) -> str:
    """The effects and what each arm was given, as two booktabs tables to \\input."""
    return "\n".join(["% needs \\usepackage{booktabs}", *_latex_effects(m), "", *_latex_given(m)]) + "\n"


def _latex_effects(m: Material) -> list[str]:
    a, digits = m.analysis, m.analysis.digits
    sets, rows = groups(m.distinct), []
    for i, (heading, contrasts) in enumerate(sets):
        if len(sets) > 1:
            rows += (["\\addlinespace"] if i else []) + [f"\\multicolumn{{5}}{{l}}{{\\emph{{{escape(heading)}}}}} \\\\"]
        for c in contrasts:
            span = "--" if c.low is None else f"${bounds(c.low, c.high, digits)}$"
            mean = "--" if c.difference is None else f"${number(c.difference, digits, True)}$"
            said = f"{c.verdict} (as first declared: {c.declared})" if c.declared else c.verdict
            rows.append(f"{escape(c.title)} & {mean} & {span} & {c.seeds} & {escape(said)} \\\\")
    value = f"Reference {number(a.value, digits)} {escape(a.unit)}. " if a.value is not None else ""
    preview = f"Partial: {a.finished} of {a.expected} trials. " if a.partial else ""
    method = a.interval.replace("Student t", "Student $t$")
    rates = "Each arm at its own learning rate, then at the shared one where that is another. " if a.rate == "tuned" else ""
    names = {c.title: c.change for c in a.contrasts if c.title != named(c)}
    where = "".join(f" {escape(name)} is {escape(change)}." for name, change in names.items())
    warning = "".join(f"Warning: {escape(text)}. " for text in a.warnings)
    anew = "".join(f"Declaration: {escape(change)}. " for change in a.declaration)
    caption = (
        f"{anew}{warning}{preview}Difference in {escape(a.unit)} (lower is better), paired by seed, "
        f"with {100 * a.confidence:g}\\,\\% intervals ({method}, simultaneous over {a.family} contrasts by Bonferroni). "
        f"{rates}{value}Margin {a.margin:g}.{where}"
    )
    return _latex_table("lrrrl", "Change & Difference & Interval & Seeds & Verdict", rows, caption, _label(m), a.notes)


def _latex_given(m: Material) -> list[str]:
    rows = [
        f"{escape(g.arm)}{_shared(g, m)} & {_tex_whole(g.parameters)} & {_tex_share(g.share)} & {_tex_whole(g.flops_per_token)} & "
        f"{_tex_share(g.flops_share)} & {escape(spell(g.learning_rate))} & {g.seeds} \\\\"
        for g in contents.fairness(m)
    ]
    head = "Arm & Parameters & & FLOPs/token & & Learning rate & Seeds"
    caption = "What each arm was given: parameters and forward FLOPs per token, each with its distance to the reference."
    return _latex_table("lrrrrrr", head, rows, caption, f"{_label(m)}-arms")


ROWS = 40  # of a table that fits on a page


def _latex_table(columns: str, head: str, rows: Sequence[str], caption: str, label: str, notes: Sequence[str] = ()) -> list[str]:
    """A table, cut to pages; the notes stand below its last part."""
    said = [f"Note: {escape(note)}." for note in notes]
    below = ["\\par\\smallskip", "\\begin{minipage}{\\linewidth}\\footnotesize", *said, "\\end{minipage}"] if said else []
    lines = []
    for start in range(0, max(1, len(rows)), ROWS):
        lines += [
            "\\begin{table}",
            "\\centering\\small\\setlength{\\tabcolsep}{4pt}",
            f"\\caption{{{caption}}}" if not start else "\\caption{Continued.}",
            f"\\label{{tab:{label}{f'-{start // ROWS + 1}' if start else ''}}}",
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            f"{head} \\\\",
            "\\midrule",
            *rows[start : start + ROWS],
            "\\bottomrule",
            "\\end{tabular}",
            *(below if start + ROWS >= len(rows) else []),
            "\\end{table}",
        ]
    return lines


def _label(m: Material) -> str:
    return "".join(c if c.isalnum() else "-" for c in m.analysis.name)


def _tex_whole(value: int | None) -> str:
    return "--" if value is None else f"{int(value):,}".replace(",", "\\,")


def _tex_share(value: float | None) -> str:
    return "" if value is None or value == 0 else f"${100 * value:+.1f}\\,\\%$"
