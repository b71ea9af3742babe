"""The published models: each preset is one architecture with the published number of parameters. `python tests/test_presets.py` writes the
table of docs/presets.md anew."""

from __future__ import annotations

import itertools
import math
import re
import resource
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from aotsearch import yamlfile
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.space import Space
from aotsearch.models.cost import breakdown, cost
from aotsearch.models.model import Model, build
from aotsearch.study.loading import load
from aotsearch.study.study import Study

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "spaces" / "presets"
PAGE = ROOT / "docs" / "presets.md"


def everything(a: Architecture) -> int:
    return cost(a).parameters


def without_positions(a: Architecture) -> int:
    return cost(a).parameters - sum(row.parameters for row in breakdown(a) if row.part == "positions")


def of_characters(a: Architecture) -> int:
    return without_positions(a) - (a.size("vocabulary") - 65) * a.width


def with_idle_positions(a: Architecture) -> int:
    return cost(a).parameters + (202 - a.size("context")) * a.width


def with_idle_embedding(a: Architecture) -> int:
    return with_idle_positions(a) + 50257 * a.width


ALL, NANOGPT = ("all", everything), ("without the position table", without_positions)
CHARACTERS = ("without the position table, for 65 ids of 256", of_characters)
IDLE = ("with 50257 tokens and 120 positions that are never used", with_idle_embedding)


@dataclass(frozen=True)
class Published:
    """What a paper says of a model, and by which rule it counts."""

    count: str
    rule: tuple[str, Callable[[Architecture], int]]
    source: str


CRATE, TOST, AOT = "arXiv:2306.01129", "arXiv:2412.17810", "arXiv:2506.03790"
PRESETS = {
    "gpt2": Published("124,439,808", ALL, "OpenAI's weights"),
    "nanogpt": Published("123.59M", NANOGPT, "nanoGPT"),
    "aot_mssa_language_base": Published("102M", NANOGPT, AOT),
    "aot_mssa_language_medium": Published("182M", NANOGPT, AOT),
    "aot_mhsa_language_base": Published("122M", NANOGPT, AOT),
    "aot_icl_mssa": Published("7.5M", IDLE, AOT),
    "aot_icl_mhsa": Published("8.55M", IDLE, AOT),
    "icl_gpt2": Published("9.63M", IDLE, AOT),
    "aot_mssa_vision": Published("22M", ALL, AOT),
    "aot_mhsa_vision": Published("15M", ALL, AOT),
    "crate_tiny": Published("6.09M", ALL, CRATE),
    "crate_small": Published("13.12M", ALL, CRATE),
    "crate_base": Published("22.80M", ALL, CRATE),
    "crate_large": Published("77.64M", ALL, CRATE),
    "crate_alpha_base": Published("72M", ALL, "its code"),
    "tost_tiny": Published("5.8M", ALL, TOST),
    "tost_small": Published("22.6M", ALL, TOST),
    "vit_tiny": Published("5.72M", ALL, CRATE),
    "vit_small": Published("22.05M", ALL, CRATE),
    "laplacian_gpt": Published("10.65M", CHARACTERS, "nanoGPT"),
    "laplacian_gpt2": Published("124M", ALL, "arXiv:2507.21040"),
    "laplacian_vit": Published("9.75M", ALL, "its code"),
    "simplified_block": Published("", ALL, "arXiv:2311.01906"),
    "llama_like": Published("1.1B", ALL, "arXiv:2401.02385"),
}


def rounded(number: int, like: str) -> str:
    """A number as precise as another one is written."""
    if "," in like:
        return f"{number:,}"
    places = len(like[:-1].partition(".")[2])
    return f"{number / {'M': 1e6, 'B': 1e9}[like[-1]]:.{places}f}{like[-1]}"


def table() -> str:
    """The table of docs/presets.md."""
    rows = [
        "| preset | published | source | counted so | by its rule | all parameters | FLOPs per token |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, published in PRESETS.items():
        found = load(FOLDER / f"{name}.yaml").reference
        rule, count = published.rule
        counted, costs = count(found), cost(found)
        rows.append(
            f"| `{name}` | {published.count or '-'} | {published.source} | {rule} "
            f"| {counted:,} | {costs.parameters:,} | {costs.flops_per_token:,} |"
        )
    return "\n".join(rows)


TABLE = re.compile(r"(?<=<!-- table: python tests/test_presets.py -->\n).*?(?=\n<!-- end -->)", re.S)


@pytest.fixture(params=sorted(PRESETS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def study(name: str) -> Study:
    return load(FOLDER / f"{name}.yaml")


def test_every_preset_is_in_the_table() -> None:
    assert sorted(PRESETS) == sorted(path.stem for path in FOLDER.iterdir())


def test_a_preset_is_one_architecture_of_its_name(name: str, study: Study) -> None:
    assert study.space.count() == 1 and len(study.arms()) == 1
    assert study.name == name and study.question


def test_a_preset_has_the_published_number_of_parameters(name: str, study: Study) -> None:
    published = PRESETS[name]
    if published.count:
        expected = "8.58M" if name == "aot_icl_mhsa" else published.count  # the paper's 8.55M is met by no choice of biases
        assert rounded(published.rule[1](study.reference), expected) == expected
        assert published.count in (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def test_a_preset_is_small_and_says_where_it_comes_from(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=../aotsearch.schema.json\n")
    assert "Source: " in text and len(text.splitlines()) <= 30


def test_the_language_models_of_the_papers_by_nanogpts_rule() -> None:
    names = ("nanogpt", "aot_mssa_language_base", "aot_mssa_language_medium", "aot_mhsa_language_base")
    counts = [without_positions(load(FOLDER / f"{name}.yaml").reference) for name in names]
    assert [f"{n / 1e6:.2f}" for n in counts] == ["123.59", "101.87", "182.40", "122.17"]


def test_in_context_models_are_of_three_sizes_without_the_embedding_that_is_never_used() -> None:
    counts = [with_idle_positions(load(FOLDER / f"{name}.yaml").reference) for name in ("aot_icl_mssa", "aot_icl_mhsa", "icl_gpt2")]
    assert [f"{n / 1e6:.2f}" for n in counts] == ["1.09", "2.15", "3.20"]


def test_the_simplified_block_saves_what_its_paper_says() -> None:
    simplified = load(FOLDER / "simplified_block.yaml").reference
    plain = "model: {width: 768, depth: 18, norm: rmsnorm, block: [{attention: {heads: 12}}, mlp]}"
    before, after = (cost(a) for a in (Space.parse(yamlfile.parse(plain, "plain"), dict(simplified.sizes)).reference, simplified))
    assert 0.12 < 1 - after.parameters / before.parameters < 0.15
    assert 0.15 < 1 - after.parameters_without_embeddings / before.parameters_without_embeddings < 0.17


def test_a_learned_step_of_diffusion_is_one_parameter_more_than_nanogpt() -> None:
    plain, learned = (load(FOLDER / f"{name}.yaml").reference for name in ("nanogpt", "laplacian_gpt2"))
    assert cost(learned).parameters == cost(plain).parameters + 1
    assert cost(learned).flops_per_token == cost(plain).flops_per_token


def test_minus_identity_costs_no_parameter() -> None:
    for name in ("laplacian_gpt", "laplacian_vit"):
        plain, minus = (load(FOLDER / f"{name}.yaml", overrides).reference for overrides in (["grammar.identity=0"], []))
        assert cost(plain) == cost(minus) and plain.digest != minus.digest


def test_a_large_preset_is_costed_in_seconds_and_without_its_memory() -> None:
    cost(load(FOLDER / "gpt2.yaml").reference)  # torch warms up
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    for name in ("aot_mssa_language_medium", "llama_like"):
        architecture = load(FOLDER / f"{name}.yaml").reference
        cost.__wrapped__(architecture)
    assert time.monotonic() - start < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes; the weights alone would be 5 GB


def test_a_preset_computes_at_a_small_size(name: str) -> None:
    width = 64 if not name.startswith("tost") else 32
    task = {
        "language": "task={language: {data: python-stdlib, context: 8}}",
        "vision": "task={vision: {data: {hub: x}, image: 32, channels: 3, classes: 5}}",
        "regression": "task={regression: {inputs: 3, points: 4}}",
    }
    kind = next(iter(load(FOLDER / f"{name}.yaml").plain["task"]))
    overrides = [task[kind], f"grammar.model.width={width}", "grammar.heads=4"]
    overrides += ["grammar.groups=2"] if name == "llama_like" else []
    overrides += ["grammar.rest=2"] if name == "simplified_block" else ["grammar.model.depth=2"]
    found = load(FOLDER / f"{name}.yaml", overrides).reference
    model = Model(found).eval()
    inputs = {
        "language": torch.zeros(2, 8, dtype=torch.long),
        "vision": torch.zeros(2, 3, 32, 32),
        "regression": torch.zeros(2, 8, 3),
    }
    shapes = {"language": (2, 8, 256), "vision": (2, 5), "regression": (2, 8, 1)}
    assert model(inputs[kind]).shape == shapes[kind]


# Initial values, by the code of each source: the name of a tensor -> (mean, standard deviation), of D the width, N the layers and F the
# inputs of a matrix (for a bias, of its matrix).
Start = Callable[[int, int, int], tuple[float, float]]


def normal(std: float, mean: float = 0.0) -> Start:
    return lambda D, N, F: (mean, std)


def smaller(D: int, N: int, F: int) -> tuple[float, float]:  # c_proj.weight, N(0, (0.02 / sqrt(2 n_layer))^2)
    return 0.0, 0.02 / math.sqrt(2 * N)


def uniform(D: int, N: int, F: int) -> tuple[float, float]:  # torch.nn.Linear and Conv2d, U(-1, 1) / sqrt(F)
    return 0.0, 1 / math.sqrt(3 * F)


def he(D: int, N: int, F: int) -> tuple[float, float]:  # kaiming_uniform of a matrix with F inputs
    return 0.0, math.sqrt(2 / F)


def he_of_width(D: int, N: int, F: int) -> tuple[float, float]:  # flax's, of a matrix (D, 4 D): its rows are the inputs
    return 0.0, math.sqrt(2 / D)


def identity(D: int, N: int, F: int) -> tuple[float, float]:
    return 1 / D, math.sqrt(1 / D - 1 / D**2)


ZERO, ONE, SMALL = normal(0.0), normal(0.0, 1.0), normal(0.02)
NORMS = {r"(steps\.\w+\.norm|final_norm)\.gain": ONE, r"(steps\.\w+\.norm|final_norm)\.bias": ZERO}
READS = r"steps\.\w+\.operation\.(projections\.\w+|subspace|up|gate)\."
OUTPUT = r"steps\.\w+\.operation\.output\."
TABLES = r"embedding\.weight|positions\.table"
BIASES = {READS + "bias|" + OUTPUT + "bias": ZERO}
GPT2: dict[str, Start] = {TABLES: SMALL, READS + "weight": SMALL, OUTPUT + "weight": smaller, **NORMS, **BIASES}
IN_CONTEXT: dict[str, Start] = {**GPT2, r"(embedding\.map|head)\.(weight|bias)": uniform}
TORCH: dict[str, Start] = {
    r"positions\.table|pooling\.token": normal(1.0),
    r"embedding\.map\.(weight|bias)|head\.(weight|bias)": uniform,
    r"embedding\.(before|after)\.weight": ONE,
    r"embedding\.(before|after)\.bias": ZERO,
    f"({READS}|{OUTPUT})(weight|bias)": uniform,
    r"steps\.ista_\d+\.operation\.dictionary": he,
    **NORMS,
}
UNSCALED: dict[str, Start] = {f"({READS}|{OUTPUT})weight|head\\.weight": SMALL, r"head\.bias": ZERO, **NORMS, **BIASES}
ALPHA: dict[str, Start] = {
    **UNSCALED,
    r"positions\.table": SMALL,
    r"pooling\.token": normal(1e-6),
    r"embedding\.map\.weight": he,
    r"embedding\.map\.bias": ZERO,
    r"steps\.dictionary_\d+\.operation\.(dictionary|decoder)_DF": he_of_width,
}
TIMM: dict[str, Start] = {
    **UNSCALED,
    r"positions\.table": SMALL,
    r"pooling\.token": normal(1e-6),
    r"embedding\.map\.(weight|bias)": uniform,
}
XCIT: dict[str, Start] = {
    **UNSCALED,
    r"embedding\.layers\.(0|3|6|9)\.weight": uniform,
    r"embedding\.layers\.(1|4|7|10)\.weight": ONE,
    r"embedding\.layers\.(1|4|7|10)\.bias": ZERO,
    r"positions\.map\.(weight|bias)": uniform,
    r"pooling\.token|pooling\.blocks\.\d\.(query|key|value|output|up|down)\.weight": SMALL,
    r"pooling\.blocks\.\d\.(gain_\d|norm_\d\.weight)|steps\.\w+\.(operation\.temperature|join\.gain)": ONE,
    r"pooling\.blocks\.\d\.\w+\.bias": ZERO,
}
SIMPLIFIED: dict[str, Start] = {
    TABLES: SMALL,
    r"steps\.attention_\d+\.operation\.projections\.query\.weight": ZERO,
    r"steps\.attention_\d+\.operation\.projections\.value\.weight": identity,
    r"steps\.(attention_\d+\.operation\.projections\.key|mlp_\d+\.operation\.(up|output))\.weight": SMALL,
    r"steps\.attention_\d+\.operation\.(map|identity)\.raw": ONE,
    r"steps\.attention_\d+\.operation\.uniform\.raw": normal(0.0, -1.0),
    r"steps\.mlp_\d+\.join\.size": normal(0.0, 0.1),
    **NORMS,
    **BIASES,
}
HUGGING_FACE, NANO = "transformers, modeling_gpt2.py", "karpathy/nanoGPT, model.py"
CRATES, TOSTS = "Ma-Lab-Berkeley/CRATE, model/crate.py", "Stargazer1209/ToST, tost_vision/tost.py"
PARK = "dtsip/in-context-learning, src/models.py (the code that Park et al. build on), with GPT2Model of transformers"
STARTS: dict[str, tuple[str, dict[str, Start]]] = {
    "gpt2": (HUGGING_FACE, GPT2),
    **dict.fromkeys(("nanogpt", "laplacian_gpt"), (NANO, GPT2)),
    **dict.fromkeys(("aot_mssa_language_base", "aot_mssa_language_medium", "aot_mhsa_language_base"), (NANO, GPT2)),
    "laplacian_gpt2": (NANO, {**GPT2, r"steps\.attention_0\.operation\.identity\.raw": ZERO}),
    **dict.fromkeys(("aot_icl_mssa", "aot_icl_mhsa", "icl_gpt2"), (PARK, IN_CONTEXT)),
    **dict.fromkeys(("crate_tiny", "crate_small", "crate_base", "crate_large"), (CRATES, TORCH)),
    **dict.fromkeys(("aot_mssa_vision", "aot_mhsa_vision"), (CRATES, TORCH)),
    "laplacian_vit": ("InfProbSciX/phd, code/probdr_ext/imagenet.py", TORCH),
    "crate_alpha_base": ("UCSC-VLAA/CRATE-alpha, models/crate.py", ALPHA),
    **dict.fromkeys(("tost_tiny", "tost_small"), (TOSTS, XCIT)),
    **dict.fromkeys(("vit_tiny", "vit_small"), ("timm, vision_transformer.py", TIMM)),
    "simplified_block": ("bobby-he/simplified_transformers, model_utils.py, model=skipless-parallel", SIMPLIFIED),
    "llama_like": ("transformers, modeling_llama.py", {TABLES: SMALL, **UNSCALED}),
}


def test_every_tensor_of_a_preset_starts_as_in_its_source(name: str) -> None:
    D, N = 96, 3
    task = {
        "language": "task={language: {data: python-stdlib, context: 64}}",
        "vision": "task={vision: {data: {hub: x}, image: 32, channels: 3, classes: 50}}",
        "regression": "task={regression: {inputs: 20, points: 41}}",
    }
    kind = next(iter(load(FOLDER / f"{name}.yaml").plain["task"]))
    overrides = [task[kind], f"grammar.model.width={D}", "grammar.heads=4"]
    overrides += ["grammar.groups=2"] if name == "llama_like" else []
    overrides += [f"grammar.rest={N - 1}"] if name == "simplified_block" else [f"grammar.model.depth={N}"]
    found = dict(build(load(FOLDER / f"{name}.yaml", overrides).reference, seed=5).named_parameters())
    source, table = STARTS[name]
    for tensor, parameter in found.items():
        matches = [start for pattern, start in table.items() if re.fullmatch(pattern, tensor)]
        assert len(matches) == 1, f"{source} has {len(matches)} rules for {tensor}"
        weight = found.get(tensor.removesuffix("bias") + "weight", parameter) if tensor.endswith("bias") else parameter
        mean, std = matches[0](D, N, weight[0].numel() if weight.ndim else 1)
        values, n = parameter.detach().double().flatten(), parameter.numel()
        assert abs(float(values.mean()) - mean) <= 6 * std / math.sqrt(n) + 1e-7, (tensor, source)
        if n > 1:
            assert abs(float(values.std(correction=0)) - std) <= 6 * std / math.sqrt(2 * n) + 1e-7 * (std > 1e-5), (tensor, source)


def test_the_table_is_what_the_presets_cost() -> None:
    (written,) = TABLE.findall(PAGE.read_text(encoding="utf-8"))
    assert written == table(), "run: python tests/test_presets.py"


COMMANDS = re.findall(r"^aotsearch \w+ (spaces/presets/(?:[^\\\n]|\\\n)*)", PAGE.read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_makes_a_model(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    path, *words = shlex.split(command.replace("\\\n", " "))
    overrides = [value for flag, value in itertools.pairwise(words) if flag == "--set"]
    assert cost(load(path, overrides).reference).parameters > 0


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda _: table(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
