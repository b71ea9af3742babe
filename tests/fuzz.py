"""Fuzzing of everything `aotsearch check` does: whatever a file holds, it is accepted or refused in words, soon, in little memory.

    python tests/fuzz.py --inputs 20000 --seed 0

Every input is a shipped YAML file, a block of the documentation or a hostile file written here, mutated with the grammar in mind. It is
read, counted, sampled, listed and made into arms in this process. Only AotsearchError may come out, each problem on one line, within
LIMIT seconds and MEMORY bytes. The first violation is printed with its file, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import aotsearch.models.cost
from aotsearch import yamlfile
from aotsearch.errors import AotsearchError, InputError
from aotsearch.study.loading import load, parse
from aotsearch.study.study import Study

ROOT = Path(__file__).parent.parent
LIMIT = 2.0  # seconds of processor time for one input
PATIENCE = 30.0  # seconds on the clock: who waits for a pipe takes no processor time
MEMORY = 1 << 30  # bytes, of the whole process at its peak
LONGEST = 1000  # characters of one problem

TASK = {"language": {"data": "python-stdlib", "context": 64}}
BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.M | re.S)


class Late(BaseException):
    """Raised by the alarm; no BaseException is caught on the way."""


class Violation(Exception):
    """What must not come out."""


@dataclass
class Figures:
    """What a campaign reports."""

    inputs: int = 0
    accepted: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    peak: float = 0.0  # bytes, where they were too many
    slowest_text: bytes = b""

    def __str__(self) -> str:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return (
            f"{self.inputs} inputs in {self.seconds:.1f} s: {self.inputs / self.seconds:.0f} inputs/s, "
            f"{100 * self.accepted / self.inputs:.1f} % accepted, slowest {self.slowest:.3f} s, peak memory {peak / 2**20:.0f} MiB"
        )


# --- what is run ---


def check(path: Path) -> bool:
    """Everything that `aotsearch check` does with a file, and a sample and a few architectures; whether the file was accepted."""
    try:
        study = load(path)
    except AotsearchError as e:
        _one_line_each(e)
        return False
    steps: list[Callable[[Study], object]] = [
        lambda s: s.space.decisions(),
        lambda s: s.space.bound(),
        lambda s: s.space.sample(0),
        lambda s: [a.digest for a in itertools.islice(s.space.enumerate(patience=60_000), 5)],
        lambda s: s.base_design,
        lambda s: s.settings.seed_list,
        lambda s: s.digest,
    ]
    for step in steps:
        try:
            step(study)
        except AotsearchError as e:
            _one_line_each(e)
    return _read_again(study)


def _read_again(study: Study) -> bool:
    """What the ledger keeps of a study is the study: it was accepted, and what is accepted is run, so it must be read again."""
    try:
        again = parse(yamlfile.parse(yamlfile.dump(dict(study.plain)), "as the ledger keeps it"), Path())
    except InputError as e:
        raise Violation(f"a study that was accepted cannot be read from its run folder: {e}") from None
    if again.plain != study.plain or again.digest != study.digest or again.reference.digest != study.reference.digest:
        raise Violation("a study read from its run folder is another")
    return True


def _one_line_each(error: AotsearchError) -> None:
    lines = [str(p) for p in error.problems] if isinstance(error, InputError) else [str(error)]
    for line in lines:
        if not line.strip() or len(line.splitlines()) > 1 or any(ord(c) < 32 for c in line):
            raise Violation(f"a problem is not one line: {line!r}")
        if len(line) > LONGEST:
            raise Violation(f"a problem has {len(line)} characters: {line[:200]!r} ...")


def _peak() -> float:
    """The most bytes that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def attempt(path: Path, figures: Figures, limit: float) -> None:
    """One input, timed. Raises whatever came out that must not."""

    def late(signum: int, frame: FrameType | None) -> None:
        raise Late

    before = [(s, signal.signal(s, late)) for s in (signal.SIGALRM, signal.SIGPROF)]
    start, used = time.perf_counter(), time.process_time()
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    signal.setitimer(signal.ITIMER_PROF, limit)
    try:
        figures.accepted += check(path)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for signum, handler in before:
            signal.signal(signum, handler)
        took = time.process_time() - used
        figures.inputs += 1
        figures.seconds += time.perf_counter() - start
        if took > figures.slowest:
            figures.slowest, figures.slowest_text = took, path.read_bytes() if path.is_file() else str(path).encode()
    peak = _peak()
    if peak > max(MEMORY, 1.1 * figures.peak):
        figures.peak = peak
        raise Violation(f"the process held {peak / 2**20:.0f} MiB")


def campaign(inputs: int, seed: int, folder: Path, keep_going: bool = False, limit: float = LIMIT) -> tuple[Figures, list[str]]:
    """Run so many inputs: the hostile ones first, then mutations. Returns the figures and the violations, each with its input."""
    furnish(folder)
    aotsearch.models.cost.cost(load(ROOT / "spaces" / "redundancy.yaml").reference)  # torch registers its operators on the first use
    path = folder / "fuzz.yaml"
    figures, violations = Figures(peak=_peak()), []  # what this process held before does not count
    for text in itertools.islice(texts(seed), inputs):
        path.write_bytes(text)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                attempt(path, figures, limit)
        except (Exception, Late) as e:  # noqa: BLE001 (what must not come out is what is looked for)
            what = f"longer than {limit} s" if isinstance(e, Late) else f"{type(e).__name__}: {str(e)[:500]}"
            trace = "".join(traceback.format_exception(e)[-14:])
            violations.append(f"VIOLATION at input {figures.inputs}: {what}\n{trace[-4000:]}\n--- the input\n{_shown(text)}\n---")
            sys.stderr.write(f"{violations[-1]}\n")
            if not keep_going:
                break
    return figures, violations


def _shown(text: bytes, most: int = 3000) -> str:
    shown = text.decode("utf-8", "backslashreplace")
    return shown if len(shown) <= most else f"{shown[:most]}\n... ({len(shown)} characters)"


def furnish(folder: Path) -> None:
    """The files that an input may name: good ones, and traps."""
    for shipped in (ROOT / "spaces").glob("*.yaml"):
        (folder / shipped.name).write_bytes(shipped.read_bytes())
    rules = "norm: {any: [layernorm, rmsnorm]}\nconstraints: ['width >= 1']\n"
    files = {"rules.yaml": rules, "list.yaml": "[a, b]\n", "empty.yaml": "", "scalar.yaml": "3\n", "self.yaml": "include: self.yaml\n"}
    files |= {"base.yaml": "space: base.yaml\n", "big.yaml": "# " + "x" * (2 << 20), "ping.yaml": "include: [pong.yaml, pong.yaml]\n"}
    files |= {"pong.yaml": "include: [ping.yaml, ping.yaml]\n", "deep15.yaml": rules}
    files |= {f"deep{i}.yaml": f"include: [deep{i + 1}.yaml, deep{i + 1}.yaml, deep{i + 1}.yaml]\n" for i in range(15)}
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "latin.yaml").write_bytes(b"norm: \xe9\xff\n")
    for made in ("folder.yaml",):
        (folder / made).mkdir(exist_ok=True)
    for name, target in (("zero.yaml", "/dev/zero"), ("loop.yaml", "loop.yaml"), ("passwd.yaml", "/etc/passwd")):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(target)
    if not (folder / "pipe.yaml").exists():
        os.mkfifo(folder / "pipe.yaml")


# --- where mutations start ---


def blocks(path: Path) -> list[str]:
    """The YAML blocks of a Markdown page."""
    return BLOCK.findall(path.read_text(encoding="utf-8"))


def starts() -> list[Any]:
    """Every shipped study and every block of the documentation, as plain data; fragments become whole studies."""
    found = [p.read_text(encoding="utf-8") for p in sorted(ROOT.glob("spaces/**/*.yaml")) + sorted(ROOT.glob("studies/*/*.yaml"))]
    found += [text for page in (ROOT / "README.md", ROOT / "docs" / "grammar.md") if page.exists() for text in blocks(page)]
    found += RICH
    trees = []
    for text in found:
        try:
            tree = yamlfile.parse(text, "start").plain()
        except InputError:
            continue
        trees.append({"name": "fuzz", "task": TASK, "grammar": tree} if isinstance(tree, dict) and "model" in tree else tree)
    return trees


RICH = [
    "model: {width: 8, blocks: [{each: 3, of: [r, x], share: [x]}, {repeat: {int: [1, 3]}, of: y, tied: true}]}\n"
    "r: {any: [mlp, [r, x], {repeat: 2, of: r}], limit: 2}\nx: {any: [attention, none]}\n"
    "y: {any: [{mlp: {expand: {any: [1, 2]}}}, attention]}\nconstraints: ['sublayers > 1', 'width % 2 == 0']",
    "model: {width: {any: [8, 16]}, depth: {int: [1, 4]}, norm: n, block: [{attention: {heads: h, norm: n, place: post, join: none}}]}\n"
    "h: {any: [1, 2, 4]}\nn: {any: [layernorm, {rmsnorm: {eps: {range: [1.0e-6, 1.0e-3], log: true}}}, none]}\n"
    "constraints: ['parameters <= 2_000_000', 'width % h == 0', 'n != \"none\" or h in [1, 2]']",
    "include: rules.yaml\nmodel: {width: 8, depth: 2, norm: norm, block: {each: 2, of: c}}\nc: {any: [mlp, attention, none]}",
]


# --- hostile inputs, as they are ---


def study(grammar: str, rest: str = "") -> str:
    """A study around a grammar; `rest` is written at the top level."""
    indented = "\n".join("  " + line for line in grammar.splitlines())
    return f"name: fuzz\ntask: {{language: {{context: 64}}}}\n{rest}\ngrammar:\n{indented}\n"


def hostile() -> Iterator[str]:
    """Files that aim at one weakness each."""
    m = "model: {width: 8, depth: 1, block: "
    expressions = [
        *("__import__('os')", "().__class__", "9**9**9", "9" * 400, "1" + "+1" * 240, "(" * 200 + "1" + ")" * 200, "width" + ".x" * 200),
        *("-" * 400 + "1", "not " * 120 + "1", "min(" * 120 + "1" + ")" * 120, "[" * 200 + "]" * 200, "lambda: 0", "[x for x in y]"),
        *("width.__class__", "1 if 1 else 2", "x := 1", "f'{width}'", "b'x'", "1j", "...", "None", "True", "width[0]", "min()", "max('')"),
        *("min(width, 'a') > 1", "'a' < 1", "1/0", "1%0", "1//0", "1e308*1e308 > 1", "'a' in 3", "3 in 'a'", "width in [1, 'a']", ""),
        *(
            "width\n",
            "width #",
            "width; 1",
            "width ==",
            "\x00",
            "\ud7ff",
            "wid\u0131th",
            "width == 8 and " * 30 + "1",
            "'\\ud800' == width",
        ),
        *("min([1, 2], 3)", "[1] < [2]", "[1] + [2]", "width < 8 < 9", "~width", "width @ 2", "width << 99", "'a' * 99999999", "'%s' % 1"),
        *("parameters > 1e400", "flops_per_token // 1e-320", "10**30 * 10**30 > 0", "min(*width)", "min(key=1)", "print(1)", "max(1)(2)"),
        *("1e400 % 2", "1e400 - 1e400 == 0", "width == width == width", "model.width == 8", "'\n' == 'x'", "context > 0", "vocabulary"),
        "0x" + "f" * 300 + " > width",
    ]
    for text in expressions:
        yield study(f"{m}[attention]}}\nconstraints: [{yamlfile.dump(text).strip().removesuffix('...').strip()}]")
    numbers = ["1000000000", "1000000", "10000", "-1", "0", "1.5", ".inf", ".nan", "1e400", "true", "9" * 41, "9" * 39, "1e3", "0x10", "''"]
    for n in numbers:
        yield study(f"model: {{width: 8, depth: {n}, block: [attention, mlp]}}")
        yield study(f"model: {{width: {n}, depth: 1, block: [attention]}}")
        yield study(f"model: {{width: 8, blocks: {{each: {n}, of: {{any: [attention, mlp]}}}}}}")
        yield study(f"model: {{width: 8, blocks: {{each: {n}, of: {{any: [none, mlp]}}}}}}")
        yield study(f"model: {{width: 8, blocks: {{repeat: {n}, of: {{repeat: {n}, of: none}}}}}}")
        yield study(f"model: {{width: 8, blocks: {{each: {n}, of: {{each: {n}, of: {{each: {n}, of: none}}}}}}}}")
        yield study(f"model: {{width: {{int: [1, {n}]}}, depth: {{int: [1, {n}]}}, block: [attention]}}")
        yield study(f"model: {{width: {{int: [1, {n}], log: true}}, depth: 1, block: [attention]}}\nconstraints: ['width == 1']")
        yield study(f"model: {{width: 8, depth: {{int: [{n}, 1000000000000000000]}}, block: {{any: [attention, none]}}}}")
        yield study(f"model: {{width: 8, blocks: {{each: {{int: [1, {n}]}}, of: {{any: [attention, none, mlp]}}}}}}")
        yield study(f"{m}[{{mlp: {{expand: {{range: [1, {n}]}}}}}}]}}")
        yield study(f"{m}[{{mlp: {{expand: {n}}}}}, {{attention: {{heads: {n}, identity: {n}}}}}]}}")
        yield study(f"model: {{width: 8, blocks: r}}\nr: {{any: [mlp, [r, r], {{repeat: {n}, of: r}}], limit: {n}}}")
        yield study(f"{m}[attention]}}", f"study: {{seeds: {n}, budget: {{steps: {n}}}, learning_rate: {n}, margin: {n}}}")
        yield study(f"{m}[attention]}}\nconstraints: ['parameters <= {n}']").replace("context: 64", f"context: {n}")
        yield study(f"model: {{width: {n}, depth: {n}, block: [attention, mlp]}}\nconstraints: ['parameters >= 0']")
    for n in (3, 8, 16):  # recursions that branch
        yield study(f"model: {{width: 8, blocks: r}}\nr: {{any: [mlp, [r, r, r]], limit: {n}}}")
        yield study(f"model: {{width: 8, blocks: r}}\nr: {{any: [mlp, {{each: {n}, of: [r, r]}}], limit: {n}}}")
        yield study(f"model: {{width: 8, blocks: r}}\nr: {{any: [{{any: [mlp, none]}}, {{repeat: 2, of: [r, s]}}], limit: {n}}}\n"
                    f"s: {{any: [attention, [r, s, x]], limit: {n}}}\nx: {{any: [mlp, attention, none]}}")  # fmt: skip
        yield study(f"model: {{width: 8, blocks: r}}\nr: {{any: [[r, r], mlp], limit: {n}}}")
        yield study(f"model: {{width: 8, blocks: r}}\nr: {{any: [{{each: 9, of: r}}, mlp], limit: {n}}}")
    for n in (10, 25, 400, 3000):  # rules that double, chains of rules, many rules, many alternatives, many sublayers
        yield study("model: {width: 8, blocks: r0}\n" + "\n".join(f"r{i}: [r{i + 1}, r{i + 1}]" for i in range(n)) + f"\nr{n}: mlp")
        yield study("model: {width: 8, blocks: r0}\n" + "\n".join(f"r{i}: {{any: [r{i + 1}, [r{i + 1}, r{i + 1}]]}}" for i in range(n))
                    + f"\nr{n}: {{any: [mlp, none]}}")  # fmt: skip
        yield study("model: {width: 8, blocks: r0}\n" + "\n".join(f"r{i}: {{repeat: 2, of: r{i + 1}}}" for i in range(n)) + f"\nr{n}: none")
        yield study("model: {width: 8, blocks: r0}\n" + "\n".join(f"r{i}: {{each: 2, of: r{i + 1}}}" for i in range(n))
                    + f"\nr{n}: {{any: [none, mlp]}}")  # fmt: skip
        many = ", ".join(f"r{i}" for i in range(n))
        yield study(f"model: {{width: 8, blocks: [{many}]}}\n" + "\n".join(f"r{i}: {{any: [mlp, none]}}" for i in range(n)))
        yield study(f"model: {{width: 8, blocks: [{many}]}}\n" + "\n".join(f"r{i}: {{any: [none, mlp]}}" for i in range(n))
                    + "\nconstraints: ['sublayers == 0']")  # fmt: skip
        yield study(
            f"model: {{width: 8, blocks: [{many}]}}\n" + "\n".join(f"r{i}: {{any: [{{mlp: {{expand: {i + 1}}}}}, none]}}" for i in range(n))
        )
        yield study(f"model: {{width: 8, blocks: [{many}, {many}]}}\n" + "\n".join(f"r{i}: {{any: [none, mlp]}}" for i in range(n)))
        yield study(
            f"model: {{width: {{any: [{', '.join(str(i + 1) for i in range(n))}]}}, depth: 1, block: [{{attention: {{heads: 1}}}}]}}"
        )
        options = ", ".join(f"{{mlp: {{expand: {i + 1}}}}}" for i in range(n))
        yield study(f"model: {{width: 8, depth: 2, block: {{any: [{options}]}}}}")
        yield study(f"model: {{width: 8, blocks: {{each: 4, of: {{any: [{options}]}}}}}}")
        yield study(f"model: {{width: 8, blocks: {{repeat: 1000, of: {{any: [{options}]}}}}}}")
        yield study(f"model: {{width: 8, blocks: {{each: 1000, of: {{any: [{options}]}}}}}}")
        yield study(f"model: {{width: 8, depth: 1, block: [{', '.join(['mlp'] * n)}]}}")
        arms = ", ".join(f"a{i}: {{h: {i % 2 + 1}}}" for i in range(n))
        yield study(f"{m}[{{attention: {{heads: h}}}}]}}\nh: {{any: [4, 1, 2]}}", f"study: {{arms: {{{arms}}}}}")
        yield study(f"{m}[attention]}}\nconstraints: [{', '.join(['width > ' + str(-i) for i in range(n)])}]")
        yield study(f"{m}[attention]}}\n" + "\n".join(f"unused{i}: mlp" for i in range(n)))
        yield study(f"{m}[{', '.join(f'word{i}' for i in range(n))}]}}")
        yield study(f"{m}[attention]}}", f"study: {{seeds: [{', '.join(map(str, range(n)))}]}}")
        yield study(f"{m}[attention]}}", f"study: {{{', '.join(f'key{i}: 1' for i in range(n))}}}")
        yield study(f"{m}[{{attention: {{{', '.join(f'option{i}: 1' for i in range(n))}}}}}]}}")
    free = ", ".join(f"{{mlp: {{expand: {{any: [{i + 1}, {i + 2}]}}}}}}" for i in range(8))
    for law in ("sublayers > 9", "sublayers == 8 and width == 8", "parameters == 0", "parameters > 0", "parameters < 5000"):
        yield study(f"model: {{width: 8, blocks: [{free}]}}\nconstraints: ['{law}']")
    chosen = ", ".join(f"c{i}" for i in range(40))
    rules = "\n".join(f"c{i}: {{any: [mlp, attention]}}" for i in range(40))
    yield study(f'model: {{width: 8, blocks: [{chosen}]}}\n{rules}\nconstraints: [\'c39 == "mlp" and c38 == "mlp"\', \'c0 == "mlp"\']')
    allsame = " and ".join(f"c{i} == 'mlp'" for i in range(20))
    yield study(f'model: {{width: 8, blocks: [{chosen}]}}\n{rules}\nconstraints: ["{allsame}"]')
    yield study("model: {width: {int: [1, 1000000]}, depth: {int: [1, 1000000]}, block: [{mlp: {expand: {int: [1, 1000000]}}}]}\n"
                "constraints: ['model.depth == 1 and width == 1 and model.block.mlp.expand == 1']")  # fmt: skip
    yield study("model: {width: 8, depth: {int: [1, 10000]}, block: [{attention: {heads: {int: [1, 100000]}}}]}")
    yield study("model: {width: {int: [1, 10000]}, depth: 500, block: [{attention: {heads: {int: [1, 10000]}}}, mlp]}")
    paths = [
        "/etc/passwd",
        "../..",
        "../../../../etc/passwd",
        "fuzz.yaml",
        "/dev/zero",
        "/dev/stdin",
        "/dev/tty",
        "pipe.yaml",
        "zero.yaml",
        "loop.yaml",
    ]
    paths += ["passwd.yaml", "folder.yaml", "big.yaml", "latin.yaml", "list.yaml", "empty.yaml", "scalar.yaml", "self.yaml", "base.yaml"]
    paths += [
        "ping.yaml",
        "deep0.yaml",
        "no.yaml",
        "",
        ".",
        "~/x.yaml",
        "a" * 5000 + ".yaml",
        "a\nb.yaml",
        "\x00.yaml",
        "\u2028.yaml",
        "search.yaml",
    ]
    paths += ["rules.yaml", "./rules.yaml", "http://localhost/x.yaml", "/dev/fd/0.yaml", "/proc/self/mem", "deep9.yaml", "con\x1b[31m.yaml"]
    for p in paths:
        quoted = yamlfile.dump(p).strip().removesuffix("...").strip()
        yield f"name: fuzz\nspace: {quoted}\n"
        yield study(f"include: {quoted}\n{m}[attention]}}")
        yield study(f"include: [{quoted}, {quoted}, rules.yaml]\n{m}[attention]}}")
        yield study(f"{m}[attention]}}").replace("context: 64", f"context: 64, data: {{text: {quoted}}}")
    yield study(f"include: [{', '.join(['rules.yaml'] * 3000)}]\n{m}[attention]}}")
    for n in (10, 59, 61, 500, 20000):  # nesting
        yield study(f"{m}{'[' * n}mlp{']' * n}}}")
        yield study(f"{m}{'{any: [' * n}mlp{']}' * n}}}")
        yield study(f"{m}{'{repeat: 2, of: ' * n}none{'}' * n}}}")
        yield study(f"{m}{'{each: 2, of: ' * n}{{any: [mlp, none]}}{'}' * n}}}")
        yield study(f"{m}[mlp]}}", f"study: {'{arms: ' * n}1{'}' * n}")
        yield "- " * n + "a"
        yield "? " * n + "a"
        yield "\n".join(" " * i + f"k{i}:" for i in range(min(n, 500)))
    long = "x" * 100_000
    yield from (
        "",
        "\n",
        "---\n---\n",
        "%YAML 9.9\n---\na: b",
        "&a [*a]",
        "a: &a [*a, *a]",
        "!!python/object/apply:os.system [ls]",
        "!<x> y",
        "? [a]\n: b",
    )
    yield from (
        "<<: {a: b}",
        "\t",
        "a:\tb",
        "\ufeffname: x",
        "'",
        '"',
        "|",
        ">",
        "- -",
        "@",
        "`",
        "%",
        "[",
        "{",
        "a: b: c",
        "{a, b}",
        "null",
        "~",
        "3",
    )
    yield from (
        '"\\x00"',
        '"\\ud800"',
        '"\\U0010ffff": 1',
        "a: |\n " + long,
        f"name: {long}",
        f"{long}: 1",
        f"name: [{long}]",
        "\x00",
        "\x1b[31m",
        "\x85",
    )
    yield from (f"name: fuzz\ntask: {long}", f"name: fuzz\ntask: {{{long}: 1}}", study(f"{m}[{long}]}}"), study(f"{m}[{{{long}: 1}}]}}"))
    yield from (
        study(f"{m}[mlp]}}\n{long}: mlp"),
        study(f"{m}[mlp]}}", f"study: {{{long}: 1}}"),
        study(f"{m}[mlp]}}\nconstraints: [{long}]"),
    )
    yield study(f"{m}[mlp]}}", f"study: {{arms: {{{long}: {{}}}}}}")
    yield study(f"{m}[mlp]}}", 'study: {arms: {"a\\nb": {"x\\ny": "z\\n"}}}')
    yield study(f'{m}[mlp, "a\\nb", "\\u2028"]}}\n"c\\nd": mlp')
    yield study('model: {width: 8, depth: 1, "a\\nb": 1, norm: {any: ["a\\nb", layernorm]}, block: [{mlp: {"x\\ty": 1}}]}')
    yield study(f"{m}[x]}}\nx: {{any: [mlp, none]}}", 'study: {arms: {a: {x: "a\\nb"}}}')
    for size in (100_000, 1_000_000):  # large but plain
        yield "a: [" + "1," * (size // 2) + "1]"
        yield "\n".join(f"k{i}: v" for i in range(size // 9))
        yield "#" * size
        yield "[" * (size // 2)
        yield "a" * size
        yield "- a\n" * (size // 4)
        yield '"' + "\\n" * (size // 2) + '"'
    for value in ("1e309", "[1]", "{a: 1}", "null", "''", "-.inf", ".nan", "[[]]", "9999999999999999999"):
        for key in (
            "seeds",
            "budget",
            "learning_rate",
            "optimiser",
            "equalise",
            "margin",
            "confidence",
            "arms",
            "search",
            "resources",
            "design",
        ):
            yield study(f"{m}[mlp]}}", f"study: {{{key}: {value}}}")
        for key in ("name", "question", "task", "grammar", "study", "space"):
            yield yamlfile.dump(
                {"name": "fuzz", "task": TASK, "grammar": {"model": {"width": 8, "depth": 1, "block": ["mlp"]}}, key: 12345}
            ).replace("12345", value)


# --- mutations ---

WORDS = """
attention mlp none layernorm rmsnorm learned rope add any repeat each of share limit range int log tied free pre post model block
blocks width depth norm place join positions final_norm head heads qkv identity expand bias eps include constraints space name
task grammar study seeds budget steps learning_rate margin design search arms one-at-a-time language data context text hub channel
mixer
"""
KNOWN = WORDS.split()
NUMBERS = [0, 1, 2, 3, 4, 8, 16, 64, 100, 1000, 9999, 10**6, 10**9, 10**18, 10**39, -1, -(10**9), 0.5, 1e-4, 1e308, -1e-320]
NUMBERS += [float("inf"), float("-inf"), float("nan")]
STRINGS = [
    "",
    " ",
    "a",
    "atention",
    "Attention",
    "mlp ",
    "\n",
    "a\nb",
    "\u2028",
    "\x85x",
    "\u0000",
    "\U0001f600",
    "e\u0301",
    "x" * 20_000,
    "../..",
    "1_000",
    "yes",
]
STRINGS += [
    "0x1f",
    "1e400",
    "~",
    "null",
    ".nan",
    "[",
    "{",
    "*a",
    "&a",
    "!!str",
    "model.block",
    "a.b.c",
    "%",
    "{0}",
    "{x!r}",
    "/dev/zero",
    "pipe.yaml",
    "fuzz.yaml",
]
LAWS = [
    "width % heads == 0",
    "sublayers <= 3",
    "parameters <= 100000",
    "sublayers == 1",
    "width == 8",
    "x",
    "9**9",
    "norm != 'none'",
    "1 / (width - 8) > 0",
]
LAWS += [
    "flops_per_token > 10",
    "width in [8, 16]",
    "min(width, 3) > 'a'",
    "context % width == 0",
    "sublayers > 10**9",
    "channel == 'none'",
    "0",
    "1",
]


def leaf(rng: random.Random) -> Any:
    """A value of any kind."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice(NUMBERS)
    if kind == 1:
        return rng.choice(STRINGS)
    if kind == 2:
        return rng.choice([None, True, False, [], {}, [[]], [None], {"a": None}])
    return rng.choice(KNOWN)


def misspelt(rng: random.Random, word: str) -> str:
    at = rng.randrange(len(word) + 1)
    return rng.choice([word[:at] + word[at + 1 :], word[:at] + "x" + word[at:], word[::-1], word.upper(), word + "s", f" {word}"])


Place = tuple[Any, Any]  # a container and a key in it


def places(tree: Any) -> list[Place]:
    found: list[Place] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        for key in node if isinstance(node, dict) else range(len(node)):
            found.append((node, key))
            if isinstance(node[key], dict | list):
                stack.append(node[key])
    return found


def wrapped(rng: random.Random, value: Any, names: list[str]) -> Any:
    """A value inside one of the forms of the grammar."""
    times = rng.choice([1, 2, 2, 3, 3, 7, {"any": [1, 2]}, {"int": [1, 5]}, rng.choice(NUMBERS)])
    forms: list[Any] = [
        {"any": [value, rng.choice(KNOWN)]},
        {"any": [value, "none"]},
        {"any": [value, rng.choice(["mlp", "attention", rng.choice(names)])]},
        {"any": [rng.choice(names), value], "limit": rng.choice([1, 2, 3, 9, 16, 10**9])},
        {"any": [copy.deepcopy(value) for _ in range(rng.choice([1, 2, 50]))]},
        {"repeat": times, "of": value, "tied": rng.choice([True, False, leaf(rng)])},
        {"each": times, "of": value},
        {"each": times, "of": value, "share": rng.sample(names, min(len(names), 2))},
        {"int": [rng.choice(NUMBERS), rng.choice(NUMBERS)], "log": rng.choice([True, False])},
        {"range": [rng.choice(NUMBERS), rng.choice(NUMBERS)], "log": rng.choice([True, False, 1])},
        [value] * rng.choice([0, 1, 2, 30]),
        [value, rng.choice(names)],
        {rng.choice(KNOWN): value},
    ]
    return rng.choice(forms)


def mutate(rng: random.Random, tree: Any, other: Any) -> Any:
    """One change of a tree; `other` lends parts of another study."""
    found = places(tree)
    if not found:
        return leaf(rng)
    node, key = rng.choice(found)
    names = [*tree.get("grammar", {})] if isinstance(tree, dict) and isinstance(tree.get("grammar"), dict) else []
    names = [str(n) for n in names] or ["model"]
    kind = rng.randrange(13)
    if kind == 0:
        node[key] = leaf(rng)
    elif kind == 1:
        if isinstance(node, dict):
            del node[key]
        else:
            node.pop(key)
    elif kind == 2:
        second, at = rng.choice(found)
        node[key], second[at] = copy.deepcopy(second[at]), copy.deepcopy(node[key])
    elif kind == 3 and isinstance(node, dict):
        node[misspelt(rng, str(key)) if rng.random() < 0.5 else str(leaf(rng))] = node.pop(key)
    elif kind == 4 and isinstance(node, list):
        node[key:key] = [copy.deepcopy(node[key]) for _ in range(rng.choice([1, 2, 100]))]
    elif kind in (5, 6):
        node[key] = wrapped(rng, node[key], names)
    elif kind in (7, 8):
        node[key] = rng.choice(names)
    elif kind == 9 and isinstance(node[key], int | float) and not isinstance(node[key], bool):
        node[key] = rng.choice([node[key] * 2, -node[key], node[key] + 1, node[key] / 3, rng.choice(NUMBERS)])
    elif kind == 10 and isinstance(tree, dict) and isinstance(tree.get("grammar"), dict):
        rules = tree["grammar"]
        laws = rules.get("constraints")
        law = rng.choice(LAWS) if rng.random() < 0.8 else f"{rng.choice(names)} {rng.choice('< > == != in % ** ( .'.split())} {leaf(rng)}"
        what = rng.randrange(4)
        if what < 2:
            rules["constraints"] = [*laws, law] if isinstance(laws, list) else [law]
        elif what == 2:
            rules[rng.choice(["x", "y", rng.choice(KNOWN), rng.choice(names)])] = wrapped(rng, rng.choice(names), names)
        else:
            rules["include"] = rng.choice(["rules.yaml", "self.yaml", "ping.yaml", ["rules.yaml", "no.yaml"], leaf(rng)])
    elif kind == 11:
        lent = rng.choice(places(other) or [([0], 0)])
        node[key] = copy.deepcopy(lent[0][lent[1]])
    elif isinstance(tree, dict):
        tree[rng.choice(["space", "study", "task", "name", "question"])] = rng.choice(
            ["redundancy.yaml", "search.yaml", leaf(rng), {"arms": {"a": {rng.choice(names): leaf(rng)}}}]
        )
    return tree


def gentle(rng: random.Random, tree: Any) -> None:
    """One change that most often leaves a valid study, so that what lies behind the checks is met as well."""
    lists = [(node, key) for node, key in places(tree) if isinstance(node, list) and node and not isinstance(node[key], int | float)]
    node, key = rng.choice(lists or [([0], 0)])
    kind = rng.randrange(6)
    if kind == 0:
        node.append(copy.deepcopy(node[key]))
    elif kind == 1 and len(node) > 1:
        node.pop(key)
    elif kind == 2:
        rng.shuffle(node)
    elif kind == 3 and isinstance(node[key], str | dict):
        node[key] = {"any": [node[key], rng.choice(["none", "mlp", {"attention": {"identity": -1}}])]}
    elif kind == 4 and isinstance(tree, dict) and isinstance(tree.get("grammar"), dict) and isinstance(tree["grammar"].get("model"), dict):
        model = tree["grammar"]["model"]
        for name in {"block", "blocks"} & model.keys():
            times = rng.choice([1, 2, 5, {"any": [2, 1]}, {"int": [1, 3]}])
            model[name] = {rng.choice(["each", "repeat"]): times, "of": model[name]}
        model["width"] = rng.choice([64, {"any": [64, 32]}, {"int": [64, 128]}])
    else:
        numbers = [(n, k) for n, k in places(tree) if isinstance(n[k], int) and not isinstance(n[k], bool)]
        node, key = rng.choice(numbers or [([0], 0)])
        node[key] = max(1, abs(node[key])) * rng.choice([1, 2, 4])


SNIPPETS = [
    "&a ",
    "*a",
    "!!python/name:os.system ",
    "!x ",
    "? ",
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    "|\n",
    ">\n",
    "#",
    "\t",
    "\n---\n",
    "'",
    '"',
    "\\",
    "<<: ",
    "%",
    ",",
]
SNIPPETS += [
    "\x00",
    "\ufeff",
    "\u2028",
    "\u202e",
    "\U0001f4a9",
    "\x1b[2J",
    "{any: [",
    "]}",
    "9" * 5000,
    "[" * 300,
    "{a: " * 100,
    "=" * 30_000,
    "\r\n",
    "\x85",
    "...",
]


def spoil(rng: random.Random, text: str) -> bytes:
    """A change of the text itself, be it valid YAML or not."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(text) + 1)
        to = min(len(text), at + rng.choice([1, 1, 3, 20, 200]))
        lines = text.splitlines(keepends=True)
        line = rng.randrange(len(lines)) if lines else 0
        kind = rng.randrange(6)
        if kind == 0:
            text = text[:at] + text[to:]
        elif kind == 1:
            text = text[:at] + rng.choice(SNIPPETS) + text[at:]
        elif kind == 2:
            text = text[:at] + rng.choice([*SNIPPETS, *map(str, NUMBERS), *KNOWN]) + text[to:]
        elif kind == 3 and lines:
            text = "".join([*lines[:line], lines[line] * rng.choice([2, 2, 50]), *lines[line:]])
        elif kind == 4:
            text = text[:at] + text[at:to] * rng.choice([2, 10]) + text[to:]
        else:
            text = re.sub(
                rng.choice([r"\bany\b", r"\d+", r"\bnone\b", r"[a-z]+:", r"\[", r"\}"]),
                lambda _: str(leaf(rng))[:50],
                text,
                count=rng.choice([1, 0]),
            )
    raw = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        at = rng.randrange(len(raw) + 1)
        raw = raw[:at] + rng.randbytes(rng.choice([1, 4, 100])) + raw[at:]
    return raw


def texts(seed: int) -> Iterator[bytes]:
    """Inputs without end: first the hostile files in an order drawn from the seed, one in three inputs, between the mutations."""
    rng = random.Random(seed)
    fixed = [text.encode("utf-8", "surrogatepass") for text in hostile()]
    rng.shuffle(fixed)
    trees = starts()
    for number in itertools.count():
        if number % 3 == 0 and fixed:
            yield fixed.pop()
            continue
        tree = copy.deepcopy(rng.choice(trees))
        mild = rng.random() < 0.4
        for _ in range(rng.choice([1, 1, 1, 1, 2, 2, 3, 6])):
            if mild:
                gentle(rng, tree)
                continue
            tree = mutate(rng, tree, rng.choice(trees))
        if sum(1 for _ in places([tree])) > 5000:
            continue
        text = yamlfile.dump(tree)
        yield spoil(rng, text) if not mild and rng.random() < 0.4 else text.encode("utf-8", "surrogatepass")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep-going", action="store_true", help="print every violation, not the first alone")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (6 * MEMORY, 6 * MEMORY))  # a runaway input is a violation, not the end of the machine
    with tempfile.TemporaryDirectory() as folder:
        figures, violations = campaign(options.inputs, options.seed, Path(folder), options.keep_going)
    sys.stdout.write(f"{figures}\nslowest input:\n{_shown(figures.slowest_text, 600)}\n{len(violations)} violations\n")
    return 1 if violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
