"""Ejected files: the same numbers as the built model, in text that holds nothing but what the model does."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib.util
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import aotsearch
from aotsearch import yamlfile
from aotsearch.eject import trained
from aotsearch.eject.file import eject, example
from aotsearch.errors import InputError, RunError
from aotsearch.grammar import library as registry
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.space import Space
from aotsearch.models.model import build
from aotsearch.report import report
from aotsearch.running.runner import Options, run

sys.path.insert(0, str(Path(__file__).parent))
from console import aotsearch as command

LANGUAGE = {"vocabulary": 11, "context": 8}
IMAGES = {"image": 16, "channels": 3, "classes": 10}
VECTORS = {"inputs": 5, "outputs": 1, "context": 8}
SETS = {"inputs": 16, "outputs": 16, "context": 8, "subspaces": 2}


def learned(**options: Any) -> dict[str, Any]:
    return {"learned": options}


ATTENTION: list[dict[str, Any]] = [
    {"heads": 2},
    {"kv_heads": 2},
    {"qkv": "tied"},
    {"qkv": "shared-kv", "kv_heads": 1},
    {"qkv": "shared-qk"},
    {"value_projection": "identity"},
    {"output": "identity"},
    {"qkv": "tied", "output": "transposed"},
    {"bias": True},
    {"bias": "output"},
    {"scale": 1},
    {"scale": "learned"},
    {"qk_norm": "l2", "scale": "learned"},
    {"qk_norm": "rms"},
    {"softcap": 5},
    {"score": "sink"},
    {"score": {"sink": {"learned": False}}},
    {"score": "diagonal"},
    {"score": "sigmoid"},
    {"score": {"sigmoid": {"bias": -1}}, "softcap": 3},
    {"score": "relu"},
    {"score": "linear"},
    {"score": {"threshold": {"tau": 0.3}}, "qkv": "tied"},
    {"identity": -1},
    {"identity": 0.123456789},
    {"identity": "learned"},
    {"identity": learned(per="head", start=0.5)},
    {"identity": learned(per="model", start=-0.5, low=-1, high=0)},
    {"map": {"split": {"heads": 2, "inside": -1, "rest": 1}}, "identity": {"split": {"heads": 2}}},
    {"uniform": -1},
    {"squared_map": 0.5},
    {"heads": 2, "second_map": "differential", "head_norm": "rms"},
    {"heads": 2, "second_map": {"differential": {"start": 0.3}}},
    {"heads": 2, "second_map": 0.5, "qk_norm": "rms", "scale": "learned", "kv_heads": 1},
    {"identity": -0.6, "first_values": 0.6},
    {"map": learned(per="head", start=1), "uniform": {"follows": {"of": "map", "plus": 1}}},
    {"squared_map": learned(per="head"), "map": {"follows": {"of": "squared_map", "times": -0.6667, "plus": 1}}},
    {"exclusive": 1},
    {"exclusive": "learned"},
    {"mask_self": True},
    {"value_source": "first"},
    {"value_source": "both"},
    {"gate": "head"},
    {"gate": "element"},
    {"persistent_kv": 3, "mask_self": True},
    {"map": 0, "uniform": 1},
    {"dropout": 0.2},
    {"dropout": 0.2, "identity": -1, "qkv": "tied", "mask_self": True},
    {"dropout": 0.2, "score": "sink", "persistent_kv": 2},
]

MODELS: list[tuple[dict[str, Any], dict[str, int]]] = [
    ({"block": ["attention", "mlp"]}, LANGUAGE),
    *(({"block": [{"attention": options}, "mlp"]}, LANGUAGE) for options in ATTENTION),
    ({"positions": "rope", "norm": "rmsnorm", "block": [{"attention": {"qkv": "tied"}}, "glu"]}, LANGUAGE),
    ({"positions": {"rope": {"base": 100.5}}, "block": [{"attention": {"value_source": "both", "squared_map": 1}}]}, LANGUAGE),
    ({"positions": "rope", "block": [{"attention": {"heads": 2, "second_map": "differential", "qk_norm": "rms"}}]}, LANGUAGE),
    ({"positions": "alibi", "block": ["attention", {"attention": {"score": "sigmoid", "persistent_kv": 2}}]}, LANGUAGE),
    ({"positions": "sinusoidal", "join": "layerscale", "block": ["tssa", {"mlp": {"tied": True}}]}, LANGUAGE),
    ({"positions": "none", "norm": "none", "head": "free", "block": ["attention", {"glu": {"activation": "gelu"}}]}, LANGUAGE),
    ({"place": "sandwich", "block": ["attention", {"ista": {"join": "none"}}]}, LANGUAGE),
    ({"place": "post", "norm": {"rmsnorm": {"eps": 1e-3}}, "block": [{"parallel": ["attention", "mlp"]}, "linear"]}, LANGUAGE),
    ({"norm": "dyt", "block": ["attention", "dictionary"]}, LANGUAGE),
    ({"norm": "sphere", "join": "convex", "block": ["attention", {"dictionary": {"decoupled": False, "steps": 4, "step": 0.2}}]}, LANGUAGE),
    ({"join": {"step": {"size": 0, "learned": True}}, "block": [{"parallel": ["attention", "mlp", "linear"]}]}, LANGUAGE),
    ({"initialisation": "zero-output", "block": ["attention", {"mlp": {"activation": "gelu-tanh", "bias": True}}]}, LANGUAGE),
    (
        {
            "initialisation": "zero-output",
            "join": "layerscale",
            "block": ["attention", {"mlp": {"join": {"step": {"size": 0, "learned": True}}}}],
        },
        LANGUAGE,
    ),
    (
        {"initialisation": "shaped", "norm": {"layernorm": {"bias": False}}, "block": ["attention", {"mlp": {"activation": "relu2"}}]},
        LANGUAGE,
    ),
    ({"initialisation": "normal", "head": "free", "block": [{"attention": {"bias": True}}, "mlp"]}, LANGUAGE),
    ({"initialisation": "normal", "embedding": {"patch": {"size": 4}}, "pooling": "class-token", "block": ["attention", "mlp"]}, IMAGES),
    ({"initialisation": "normal", "embedding": {"patch": {"size": 4, "std": 0.3}}, "block": ["attention", "dictionary"]}, IMAGES),
    (
        {"initialisation": "normal", "embedding": {"stem": {"size": 4}}, "positions": "fourier", "block": [{"tssa": {"bias": True}}]},
        IMAGES,
    ),
    ({"initialisation": "torch-ends", "block": [{"attention": {"bias": True}}, "mlp"]}, {**VECTORS, "outputs": 2}),
    ({"initialisation": "torch-ends", "head": "free", "positions": "sinusoidal", "block": ["attention", "mlp"]}, LANGUAGE),
    ({"initialisation": "simplified", "block": [{"attention": {"heads": 2, "bias": True}}, "mlp"]}, LANGUAGE),
    ({"initialisation": "identity", "block": [{"attention": {"qkv": "tied"}}, "linear"]}, LANGUAGE),
    ({"initialisation": "torch", "block": ["attention", {"mlp": {"activation": "silu", "expand": 2.6666}}]}, LANGUAGE),
    ({"depth": 3, "block": [{"attention": {"heads": 2}}, {"attention": {"heads": 8}}, {"mlp": {"activation": "relu"}}]}, LANGUAGE),
    ({"blocks": {"repeat": 3, "of": ["attention", "mlp"], "tied": True}}, LANGUAGE),
    ({"blocks": {"repeat": 3, "of": [{"attention": {"value_source": "first"}}, "mlp"], "tied": True}}, LANGUAGE),
    ({"block": [{"parallel": [{"attention": {"place": "post"}}, {"mlp": {"place": "pre"}}]}]}, LANGUAGE),
    ({"blocks": ["mlp", {"repeat": 3, "of": ["attention", "mlp"]}, {"repeat": 2, "of": ["linear"], "tied": True}, "attention"]}, LANGUAGE),
    ({"depth": 6, "block": [{"attention": {"value_source": "first"}}, {"parallel": ["mlp", "linear"]}]}, LANGUAGE),
    ({"block": ["attention", "mlp"]}, IMAGES),
    ({"embedding": {"patch": {"size": 4, "norms": True}}, "pooling": "class-token", "block": ["attention", "mlp"]}, IMAGES),
    ({"embedding": {"stem": {"size": 4}}, "positions": "fourier", "pooling": "class-attention", "block": ["tssa", "mlp"]}, IMAGES),
    ({"dropout": 0.2, "block": [{"attention": {"dropout": 0.2}}, "mlp"]}, LANGUAGE),
    ({"dropout": 0.2, "drop_path": 0.3, "depth": 4, "pooling": "class-token", "block": [{"attention": {"dropout": 0.1}}, "mlp"]}, IMAGES),
    ({"drop_path": 0.3, "depth": 3, "block": [{"parallel": ["attention", "mlp"]}, {"tssa": {"place": "sandwich"}}]}, LANGUAGE),
    ({"dropout": 0.1, "drop_path": 0.3, "blocks": {"repeat": 4, "of": ["attention", "mlp"], "tied": True}}, LANGUAGE),
    ({"dropout": 0.1, "place": "post", "blocks": {"repeat": 3, "of": "attention", "tied": True}}, LANGUAGE),
    ({"pooling": "mean", "positions": "alibi", "block": [{"attention": {"uniform": 1, "score": "sigmoid", "mask_self": True}}]}, IMAGES),
    ({"block": ["attention", "mlp"]}, VECTORS),
    ({"block": [{"attention": {"score": "threshold", "qkv": "tied"}}]}, SETS),
    ({"embedding": "projection", "place": "post", "block": [{"attention": {"score": "sparsemax"}}, "decorrelation"]}, SETS),
    ({"embedding": {"projection": {"radius": 0.5}}, "block": ["attention", {"decorrelation": {"beta": 0.3}}]}, VECTORS),
]


def architecture(model: dict[str, Any], sizes: dict[str, int] = LANGUAGE) -> Architecture:
    depth = {} if "blocks" in model else {"depth": 2}
    return Space.parse(yamlfile.parse(yamlfile.dump({"model": {"width": 16, **depth, **model}}), "f"), sizes).reference


@functools.cache
def text(number: int) -> str:
    return eject(architecture(*MODELS[number]))


def source(model: dict[str, Any], sizes: dict[str, int] = LANGUAGE) -> str:
    return eject(architecture(model, sizes))


def executed(source: str) -> dict[str, Any]:
    """What a file defines, when nothing but torch and Python can be imported."""

    def guarded(name: str, *rest: Any) -> Any:
        root = name.partition(".")[0]
        if root != "torch" and root not in sys.stdlib_module_names:
            raise ImportError(f"an ejected file imports {name}")
        return builtins.__import__(name, *rest)

    space: dict[str, Any] = {"__name__": "ejected", "__builtins__": {**vars(builtins), "__import__": guarded}}
    exec(compile(source, "ejected", "exec"), space)
    return space


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """A model away from its start, at which some terms are 0."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def seeded(model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """The outputs; what is dropped is drawn by torch's generator, from one state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        outputs: torch.Tensor = model(inputs)
        return outputs


each = pytest.mark.parametrize("number", range(len(MODELS)), ids=lambda n: yamlfile.dump(MODELS[n][0]).strip().replace("\n", " "))


def test_every_word_is_ejected_in_some_test() -> None:
    def words(plain: Any) -> set[str]:
        if isinstance(plain, dict):
            return set(plain) | {w for v in plain.values() for w in words(v)}
        return {w for v in plain for w in words(v)} if isinstance(plain, list) else {str(plain)}

    given = {w for model, _ in MODELS for w in words(model)} | {"softmax", "token", "add", "vector", "learned"}
    assert {w.name for w in registry.library().values() if w.slot != "task"} <= given


@each
def test_an_ejected_model_loads_the_built_weights_and_gives_the_same_bits(number: int) -> None:
    a = architecture(*MODELS[number])
    ours, theirs = shaken(build(a, seed=1)), executed(text(number))["Model"]()
    assert list(ours.state_dict()) == list(theirs.state_dict()) or set(ours.state_dict()) == set(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())  # what is shared is shared
    inputs = example(a)
    for training in (False, True):
        wanted, found = (seeded(model.train(training), inputs) for model in (ours, theirs))
        assert wanted.dtype == found.dtype == torch.float32 and torch.equal(wanted, found)
    assert torch.equal(seeded(ours, inputs[:1]), seeded(theirs, inputs[:1]))


@each
def test_an_ejected_file_starts_as_its_scheme_says(number: int) -> None:
    a = architecture(*MODELS[number])
    torch.manual_seed(0)
    ours, theirs = build(a, seed=1), executed(text(number))["Model"]()
    for (name, p), (other, q) in zip(sorted(ours.named_parameters()), sorted(theirs.named_parameters()), strict=True):
        assert name == other
        spread, other_spread = p.std(correction=0).item(), q.std(correction=0).item()
        if spread == 0:
            assert torch.equal(p, q), name
        else:
            assert p.numel() < 100 or 0.7 < other_spread / spread < 1.4, name
            assert other_spread > 0, name


@each
def test_an_ejected_file_holds_no_constant_condition_and_no_word_of_ours(number: int) -> None:
    tree = ast.parse(text(number))
    header = ast.get_docstring(tree) or ""
    assert "aotsearch" in header and "aotsearch" not in text(number).replace(header, "")
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.IfExp | ast.While):
            names = [n for n in ast.walk(node.test) if isinstance(n, ast.Name)]
            assert names, ast.unparse(node.test)
    assert max(map(len, text(number).split("\n"))) <= 140
    assert "site" not in text(number) and "getattr" not in text(number) and "isinstance" not in text(number)
    assert "Requires:" not in text(number) and "_kind_" not in text(number)


@pytest.mark.skipif(shutil.which("ruff") is None and not Path(sys.executable).with_name("ruff").exists(), reason="ruff is not installed")
def test_no_ejected_file_has_an_unused_or_unknown_name(tmp_path: Path) -> None:
    for number in range(len(MODELS)):
        (tmp_path / f"ejected_{number}.py").write_text(text(number))
    ruff = shutil.which("ruff") or str(Path(sys.executable).with_name("ruff"))
    done = subprocess.run([ruff, "check", "--isolated", "--select", "F,E7,E9,W", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_plain_block_reads_as_one_would_write_it() -> None:
    found = source({"depth": 12, "block": ["attention", "mlp"]})
    assert "for i in range(12):" in found and "for step in self.steps.values():" in found
    assert 'self.steps[f"attention_{i}"] = Sublayer(LayerNorm(), Attention())' in found
    assert "F.scaled_dot_product_attention(q_BHLP, k_BHMP, v_BHMP, is_causal=True, scale=0.5)" in found
    assert "return self.output(F.gelu(self.up(x_BLD)))" in found and "Here heads = 4." in found
    assert found.count("\nclass ") == 7
    for absent in ("ForwardContext", "rotate", "memory", "keep_LM", "Identity", "state(", "causal:", "2310.", "Args:"):
        assert absent not in found


def test_attention_minus_identity_is_a_difference_and_says_so() -> None:
    found = source({"block": [{"attention": {"identity": -1}}, "mlp"]})
    assert "y_BHLP = a_BHLP - v_BHLP" in found and "random-walk Laplacian" in found and "Here heads = 4, identity = -1." in found
    assert "2507.21040" in found and "2306.01129" not in found


def test_a_fixed_coefficient_is_a_number_and_a_score_a_class_of_its_own() -> None:
    found = source({"block": [{"attention": {"score": {"threshold": {"tau": 0.3}}, "qkv": "tied", "uniform": -0.5}}]})
    assert "- 0.5 * self.average(v_BHLP)" in found
    assert "self.score = ThresholdScore()" in found and "return 0.3 * (A_BHLM > 0.3).to(A_BHLM.dtype)" in found and "Theorem 3.1" in found


def test_a_number_without_end_stays_the_expression_it_comes_from() -> None:
    found = source({"initialisation": "torch", "block": [{"attention": {"heads": 8}}, {"ista": {"join": "none"}}]}, IMAGES)
    assert "math.sqrt(0.125) * torch.randn(16, 16)" in found and "0.1 * 0.1" in found and "class ReplaceSublayer" in found
    assert "self.scale = " in found and "scale=self.scale" in found and "initialise" not in found, "torch's modules start as they do"


def test_comments_stay_with_what_they_are_about() -> None:
    found = source({"block": [{"attention": {"identity": -1, "squared_map": 0.5}}]})
    assert "# A^2 V = A (A V)" in found and "# (A + a I) V = A V + a V" in found
    assert "# the first token sees none" not in found


def test_tied_attention_has_one_projection() -> None:
    found = source({"block": [{"attention": {"qkv": "tied"}}]})
    assert 'self.projections["subspace"] = nn.Linear(16, 16, bias=False)' in found and "Q_h = K_h = V_h = x U_h" in found
    assert '"query"' not in found and "2506.03790" in found


def test_values_of_the_first_layer_are_carried_and_nothing_else_is() -> None:
    found = source({"positions": "rope", "depth": 4, "block": [{"attention": {"identity": -0.6, "first_values": 0.6}}, "mlp"]})
    assert "class ForwardContext:" in found and "self.first_BLD = None" in found
    assert "y_BHLP + 0.6 * self.heads_of(flow.first_BLD)" in found and "flow.positions.rotate(q_BHLP)" in found
    learned = source({"depth": 4, "block": [{"attention": {"identity": -0.6, "first_values": 0.6}}, "mlp"]})
    assert "class ForwardContext:" in learned and "ForwardContext()" in learned and "flow.positions" not in learned


def test_what_depends_on_the_layer_is_a_formula_of_the_layer() -> None:
    found = source({"depth": 4, "block": [{"attention": {"heads": 2, "second_map": "differential"}}]})
    assert "def __init__(self, layer: int):" in found and "0.8 - 0.6 * math.exp(-0.3 * layer)" in found
    assert "Sublayer(LayerNorm(), Attention(i))" in found and "class Attention2" not in found


def test_one_number_for_the_model_is_one_parameter() -> None:
    found = source({"depth": 4, "block": [{"attention": {"identity": learned(per="model", start=-0.5, low=-1, high=0)}}]})
    assert "for i in range(1, 4):" in found
    model = executed(found)["Model"]()
    assert sum(name.endswith("raw") for name, _ in model.named_parameters()) == 1
    assert sum(name.endswith("raw") for name in model.state_dict()) == 4


def test_shared_weights_are_applied_in_a_loop() -> None:
    found = source({"blocks": {"repeat": 6, "of": ["attention", "mlp"], "tied": True}})
    assert "for _ in range(6):" in found and 'self.steps["attention_0"]' in found and "attention_1" not in found


def test_parallel_sublayers_share_their_norm_and_their_input() -> None:
    found = source({"block": [{"parallel": ["attention", "mlp"]}]})
    assert 'Sublayer(self.steps[f"attention_{i}"].norm, Mlp())' in found and "z_BLD = x_BLD" in found


def test_loops_start_where_numbers_do_and_lines_that_do_not_repeat_stay_lines() -> None:
    found = source({"blocks": ["mlp", {"repeat": 3, "of": ["attention", "mlp"]}, {"repeat": 4, "of": ["linear"], "tied": True}]})
    assert "for i in range(3):" in found and 'self.steps[f"mlp_{i}"] = Sublayer(LayerNorm(), Mlp())' in found
    assert "for _ in range(4):" in found and "linear_1" not in found
    order = [line.strip() for line in found[found.index("def forward(self, inputs") :].splitlines()]
    assert order.index("for i in range(3):") < order.index('x_BLD = self.steps["mlp_3"](x_BLD)') < order.index("for _ in range(4):")


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose words are installed."""
    path = Path(__file__).with_name("strangers.py")
    spec = importlib.util.spec_from_file_location("strangers", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "strangers", module)
    spec.loader.exec_module(module)
    words = {(w.slot, w.name): w for w in registry.read_words(path.read_text(), "strangers")}
    library = {**registry.library(), **words}
    monkeypatch.setattr(registry, "library", lambda: library)


@pytest.mark.parametrize(
    "model",
    [
        {"block": ["inherits"]},
        {"block": [{"inherits": {"kind": "two", "bias": True}}]},
        {"block": ["cells", {"cells": {"cells": 1, "factor": 2}}]},
        {"depth": 3, "block": ["remembers", "mlp"]},
        {"block": ["attends"]},
        {"positions": "turned", "block": ["attention"]},
        {"norm": "plain", "block": ["attention", "mlp"]},
        {"block": ["tries", {"wraps": {"score": "sink"}}]},
    ],
    ids=str,
)
def test_words_of_other_packages_are_ejected_too(strangers: None, model: dict[str, Any]) -> None:
    a = architecture(model)
    found = source(model)
    ours, theirs = shaken(build(a)), executed(found)["Model"]()
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours.eval()(example(a)), theirs.eval()(example(a)))
    assert "strangers" not in found and "aotsearch" not in found.replace(ast.get_docstring(ast.parse(found)) or "", "")


@pytest.mark.parametrize(
    ("word", "error", "law"),
    [
        ("imports", InputError, "it needs numpy, and an ejected file imports torch alone"),
        ("forgets", RunError, "does not give the numbers of the model; look at the words of strangers"),
    ],
)
def test_what_can_not_be_ejected_is_one_line(strangers: None, word: str, error: type[Exception], law: str) -> None:
    with pytest.raises(error) as caught:
        source({"block": [word]})
    assert law in str(caught.value) and "\n" not in str(caught.value)


def test_ejecting_draws_nothing_from_torchs_generator() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    source({"block": ["attention"]})
    assert torch.equal(torch.get_rng_state(), state)


def test_the_command_writes_an_arm_to_standard_output_or_to_a_file(study_file: Path, tmp_path: Path) -> None:
    done = command("eject", str(study_file), "--arm", "identity=-1")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout == eject(aotsearch.load(study_file).arm("identity=-1").architecture, "the arm 'identity=-1' of the study 'small'")
    out = tmp_path / "new" / "model.py"
    done = command("eject", str(study_file), "--set", "grammar.model.depth=2", "--out", str(out))
    assert done.returncode == 0 and not done.stdout and str(out) in done.stderr
    assert "for i in range(2):" in out.read_text() and "the arm 'reference' of the study 'small'" in out.read_text()
    ran = subprocess.run([sys.executable, "-I", str(out)], capture_output=True, text=True)
    assert ran.returncode == 0 and "parameters; outputs (1, 16, 256)" in ran.stdout, ran.stderr


def test_a_trained_trial_is_ejected_with_its_weights(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "write", lambda *_, **__: [])  # pictures are drawn where they are read
    folder, out = tmp_path / "run", tmp_path / "trained.py"
    study = aotsearch.load(study_file)
    run(study, folder, Options(local=True, track=False))
    done = command("eject", str(folder), "--arm", "channel=none", "--seed", "1", "--out", str(out))
    assert done.returncode == 0, done.stderr
    record, checkpoint = trained.find(folder, "channel=none", 1)
    ours = build(Architecture.from_dict(record["architecture"]), 5)
    ours.load_state_dict(torch.load(checkpoint))
    theirs = executed(out.read_text())["load"](tmp_path / "trained.pt")  # by torch alone
    ran = subprocess.run([sys.executable, "-I", str(out)], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0 and "outputs (1, 16, 256)" in ran.stdout, ran.stderr
    study.task.prepare()
    inputs, targets = map(torch.as_tensor, study.task.validation())
    logits = theirs(inputs)
    assert torch.equal(logits, ours.eval()(inputs))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
    assert loss == pytest.approx(record["measures"]["loss"], rel=1e-5)
    assert 'model = load("trained.pt")' in out.read_text()
    again = command("eject", str(folder), "--arm", "channel=none")  # without a seed: the class alone
    assert again.returncode == 0 and "load(" not in again.stdout
    for arguments, words in (
        (["--arm", "chanel=none", "--seed", "1", "--out", str(out)], "did you mean 'channel=none'"),
        (["--arm", "channel=none", "--seed", "9", "--out", str(out)], "its seeds are 0, 1"),
        (["--arm", "channel=none", "--seed", "1"], "it needs a run folder and --out"),
    ):
        done = command("eject", str(folder), *arguments)
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    content, half = checkpoint.read_bytes(), tmp_path / "half.py"
    other, _ = trained.find(folder, "channel=none", 0)
    for damaged in (
        content[: len(content) // 2],
        content[:-200] + bytes([content[-200] ^ 1]) + content[-199:],
        (checkpoint.parent / f"{other['key']}.pt").read_bytes(),  # of another seed
        b"some text",
    ):
        checkpoint.write_bytes(damaged)
        with pytest.raises(InputError, match="is not what the trial wrote"):
            trained.write(folder, "channel=none", 1, half)
    checkpoint.unlink()
    checkpoint.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is not there"):
        trained.write(folder, "channel=none", 1, half)
    assert not half.exists()
    checkpoint.unlink()
    done = command("eject", str(folder), "--arm", "channel=none", "--seed", "1", "--out", str(out))
    assert done.returncode == 2 and "is not there" in done.stderr and len(done.stderr.splitlines()) == 1
    assert command("eject", str(tmp_path / "none.yaml")).returncode == 2


class Trap:
    """What a foreign pickle may do."""

    def __reduce__(self) -> Any:
        return print, ("executed",)


def test_weights_from_before_digests_were_recorded_are_those_of_their_model(
    study_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing that lies there is executed."""
    study, path = aotsearch.load(study_file), tmp_path / "weights.pt"
    reference, arm = (study.arm(name).architecture for name in ("reference", "channel=none"))
    torch.save(build(reference).state_dict(), path)
    assert trained.verified(path, {}, reference) == path.read_bytes()
    with pytest.raises(InputError, match="does not hold the weights of the arm"):
        trained.verified(path, {}, arm)
    for content in (b"some text", pickle.dumps(Trap()), pickle.dumps({"a": 1})):
        path.write_bytes(content)
        with pytest.raises(InputError, match="does not hold the weights of the arm") as said:
            trained.verified(path, {}, reference)
        assert "\n" not in str(said.value) and "executed" not in capsys.readouterr().out
