"""Mixers: x_BLD -> y_BLD, the operations that move information between tokens.

    y = mixer(x_BLD, flow)

Shape letters: B batch, L tokens, D width, H heads, G heads of keys and values, P = D / H width of one head, M keys.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from aotsearch.grammar.words import Coefficient, Count, Divisor, Flag, Natural, Number, Positive, Probability, Score, word
from aotsearch.models.parts.coefficient import Differential, Follows
from aotsearch.models.parts.context import ForwardContext, LayerContext
from aotsearch.models.parts.score import LinearScore, Softmax

TERMS = ("map", "identity", "uniform", "square", "second", "first", "exclusive")  # attributes, whose names are also those in a state


def present(coefficient: float | nn.Module) -> bool:
    """Whether a term with this coefficient is there."""
    return isinstance(coefficient, nn.Module) or coefficient != 0


def value_of(coefficient: float | nn.Module) -> torch.Tensor | float:
    """A coefficient as what multiplies a term."""
    return coefficient() if isinstance(coefficient, nn.Module) else coefficient


@word("mixer", "attention")
class Attention(nn.Module):
    r"""Multi-head attention whose mixing matrix is a sum of terms, each with a coefficient that is fixed or learned.

    y = sum_h M_h V_h W_h,   M = b A + a I + c C + d A^2 - l A_2,   A_h = softmax(s Q_h K_h^T)

    Q_h, K_h, V_h are (L, P) projections of x, A_h is the attention map (L, L), W_h is (P, D). b is `map`, a `identity`, c `uniform` (C
    averages all that a token sees: row i of the causal C holds 1 / i), d `squared_map`, l `second_map` (A_2 is a map of its own: queries
    and keys are halved, A is the map of the first halves). Two more terms read other values: e `first_values` adds e V_1 of the first
    attention of the model, g `exclusive` takes g times the direction of its own value out of y.

    With `qkv: tied` Q_h = K_h = V_h = x U_h: multi-head subspace self-attention (MSSA), one projection per subspace. With
    `identity: -1` the mixing matrix is A - I, minus the random-walk Laplacian: one step of graph diffusion. No term but A needs an
    (L, L) matrix of its own: (A + a I) V = A V + a V, A^2 V = A (A V), C V is a running mean; so the fused kernel stays wherever the
    score is softmax without a cap, and a term that is not there costs nothing.

    Known systems as options: attention minus identity {identity: -1}, its control {identity: 1}, a learned one per model {identity:
    {learned: {per: model, start: -0.5, low: -1, high: 0}}}; Laplacian heads {map: {split: {heads: k, inside: -1, rest: 1}}, identity:
    {split: {heads: k}}}; shaped {map: {learned: {per: head, start: 1}}, identity: the same, uniform: {learned: {per: head, start: -1}}};
    value-SkipInit {map: {learned: {per: head}}, identity: {learned: {per: head, start: 1}}}; AttnScale {map: {learned: {per: head, start:
    1}}, uniform: {follows: {of: map, plus: 1}}}; centred {uniform: -1}; GFSA {squared_map: {learned: {per: head}}, map: {follows: {of:
    squared_map, times: -0.6667, plus: 1}}}; NeuTRENO {identity: -0.6, first_values: 0.6}; differential {second_map: differential,
    head_norm: rms}; exclusive self-attention {exclusive: 1}.

    Source: Vaswani et al. 2017, arXiv:1706.03762; tied: Wang et al. 2025, arXiv:2506.03790 (eq. 4) after Yu et al. 2023, arXiv:2306.01129;
    identity: Ravuri and Lawrence 2025, arXiv:2507.21040; shaped: Noci et al. 2023, arXiv:2306.17759, He and Hofmann 2023, arXiv:2311.01906;
    value-SkipInit: He et al. 2023, arXiv:2302.10322; uniform: Wang et al. 2022, arXiv:2203.05962; squared_map: Choi et al. 2023,
    arXiv:2312.04234; second_map: Ye et al. 2024, arXiv:2410.05258; first_values: Nguyen et al. 2023, arXiv:2312.00751; value_source: Zhou
    et al. 2024, arXiv:2410.17897; exclusive: Zhai 2026, arXiv:2603.09078; gate: Qiu et al. 2025, arXiv:2505.06708; kv_heads: Ainslie et al.
    2023, arXiv:2305.13245; persistent_kv: Sukhbaatar et al. 2019, arXiv:1907.01470; qk_norm: `l2` Henry et al. 2020, arXiv:2010.04245, and
    Loshchilov et al. 2024, arXiv:2410.01131; `rms` Yang et al. 2025, arXiv:2505.09388 (Qwen3); softcap: Gemma Team 2024, arXiv:2408.00118.
    Differs: for `tied` the output W_h is free, as in the authors' code, unless `output: transposed` asks for U_h^T as in the equation;
    scores are scaled by 1 / sqrt(P), which the equation leaves out, unless `scale: 1`. The second map halves the queries and keys of each
    head, where the source halves the number of heads ({heads: H/2} is the same); as there each half is normed and turned by itself, with
    one gain for both. The vectors of `persistent_kv` are not scaled, normed or turned, and start as matrices do (source: unit variance).
    Under `l2` the scale is nGPT's sqrt(P), without its gains per entry; Henry et al. learn one number from log2(L^2 - L).

    Args:
        heads: Number of heads (of subspaces, where tied) H; divides width.
        kv_heads: Heads G of keys and values, each used by H / G heads of queries; 1 is multi-query attention.
        qkv: `free` has three projections; `tied` has one, used as query, key and value; `shared-kv` and `shared-qk` have two.
        value_projection: Whether the values are projected, or x itself.
        output: W_h: `free`; `transposed`, U_h^T of the tied projection; or `identity`, the heads side by side.
        bias: Whether the projections add a bias; `output` has it at W_h alone.
        scale: What scores are multiplied by: `sqrt` is 1 / sqrt(P), under `qk_norm: l2` sqrt(P), so that the scores of independent queries
            and keys of unit variance have unit variance; `learned` is one number per head that starts there. P is halved by `second_map`.
        qk_norm: Queries and keys on the unit sphere (`l2`), or at unit root mean square with a learned gain (`rms`), before they are turned
            by their place.
        softcap: Scores s become cap tanh(s / cap).
        score: How scores become weights.
        map: Coefficient b of the attention map A.
        identity: Coefficient a of the identity. `learned` starts at 0, so training starts at plain attention.
        uniform: Coefficient c of the average C.
        squared_map: Coefficient d of the squared map.
        second_map: Coefficient l of the second map, which is subtracted.
        first_values: Coefficient e of the values of the first attention.
        exclusive: How much of its own value's direction is taken out of the output of a token; 1 leaves nothing of what `identity` adds.
        mask_self: Whether a token may not attend to itself; a token that then sees none gets 0 from A.
        value_source: The layer's `own`; those of the `first` attention; or the mean of `both`.
        head_norm: Whether the output of each head is brought to unit root mean square, times a learned gain; with `second_map:
            differential` also times 1 - start, as in its source.
        gate: Whether the output is multiplied by sigmoid(x W_g), one number per head or per element.
        persistent_kv: How many learned keys and values stand beside those of the tokens, for each head; they decay as the matrices of the
            MLP whose place they take.
        dropout: Share of the entries of every map that training drops, the others over 1 - dropout. The terms without a map keep theirs,
            and a map that acts twice is dropped anew.

    Requires:
        kv_heads == 'all' or heads % kv_heads == 0
        kv_heads == 'all' or qkv == 'free' or qkv == 'shared-kv'
        value_projection == 'free' or (kv_heads == 'all' and (qkv == 'free' or qkv == 'shared-qk'))
        output != 'transposed' or qkv == 'tied'
        output == 'free' or bias != 'output'
        score != 'threshold' or qkv == 'tied'
        score != 'threshold' or (scale != 'learned' and persistent_kv == 0)
        score != 'threshold' or (qk_norm == 'none' and softcap == 'none')
        initialisation not in ['shaped', 'simplified'] or qkv != 'shared-qk'
        score != 'linear' or softcap == 'none'
        score != 'diagonal' or not mask_self
        score != 'diagonal' or persistent_kv == 0
        persistent_kv == 0 or (squared_map == 0 and second_map == 0)
        second_map == 0 or width / heads % 2 == 0
        value_source == 'own' or qkv == 'free'
        value_source != 'first' or map != 0 or squared_map != 0 or second_map != 0
        exclusive != 1 or identity == 0
        map != 0 or identity != 0 or uniform != 0 or squared_map != 0 or second_map != 0
    """

    def __init__(
        self,
        site: LayerContext,
        *,
        heads: Divisor = 4,
        kv_heads: Count | Literal["all"] = "all",
        qkv: Literal["free", "tied", "shared-kv", "shared-qk"] = "free",
        value_projection: Literal["free", "identity"] = "free",
        output: Literal["free", "transposed", "identity"] = "free",
        bias: Flag | Literal["output"] = False,
        scale: Positive | Literal["sqrt", "learned"] = "sqrt",
        qk_norm: Literal["none", "l2", "rms"] = "none",
        softcap: Positive | Literal["none"] = "none",
        score: Score = "softmax",
        map: Number | Coefficient = 1.0,
        identity: Number | Coefficient = 0.0,
        uniform: Number | Coefficient = 0.0,
        squared_map: Number | Coefficient = 0.0,
        second_map: Number | Coefficient = 0.0,
        first_values: Number | Coefficient = 0.0,
        exclusive: Number | Coefficient = 0.0,
        mask_self: Flag = False,
        value_source: Literal["own", "first", "both"] = "own",
        head_norm: Literal["none", "rms"] = "none",
        gate: Literal["none", "head", "element"] = "none",
        persistent_kv: Natural = 0,
        dropout: Probability = 0.0,
    ):
        super().__init__()
        width = site.width
        self.causal, self.rotates, self.biases = site.causal, site.rotates, site.biases
        self.heads = heads
        self.size = width // heads  # P
        self.repeats = 1 if kv_heads == "all" else heads // kv_heads
        self.map, self.identity, self.uniform, self.square, self.second = map, identity, uniform, squared_map, second_map
        self.first, self.exclusive = first_values, exclusive
        for term in TERMS:
            if isinstance(getattr(self, term), Follows):
                getattr(self, term).follow(getattr(self, getattr(self, term).of))
        self.attends = present(map) or present(squared_map) or present(second_map)  # else no queries, keys and scores are needed

        self.qkv, self.value, self.values = qkv, value_projection, value_source
        self.owns = value_source != "first" or site.layer == 0
        wanted = {"tied": ["subspace"], "shared-kv": ["query", "key"], "shared-qk": ["query", "value"]}.get(qkv, ["query", "key", "value"])
        idle = set() if self.attends else {"query"} if qkv == "shared-kv" else {"query", "key"}
        idle |= set() if value_projection == "free" and self.owns else {"value"}
        inner = {"key": width // self.repeats, "value": width // self.repeats}
        self.projections = nn.ModuleDict()
        for name in [name for name in wanted if name not in idle]:
            self.projections[name] = nn.Linear(width, inner.get(name, width), bias=bias is True)

        self.fused = isinstance(score, Softmax) and softcap == "none"
        self.dropout = nn.Dropout(dropout) if dropout > 0 and self.attends else None
        self.score = score if self.attends and not (self.fused and self.dropout is None) else None
        self.features = isinstance(score, LinearScore)
        self.softcap = softcap
        self.qk_norm = qk_norm if self.attends else "none"
        scored = self.size // 2 if present(second_map) else self.size  # entries that a score sums over
        if self.qk_norm == "rms":
            self.query_gain = nn.Parameter(torch.ones(scored))
            self.key_gain = nn.Parameter(torch.ones(scored))
        usual = scored**0.5 if qk_norm == "l2" else scored**-0.5
        self.scale = 1.0 if scale == "learned" else usual if scale == "sqrt" else scale
        self.learned_scale = nn.Parameter(torch.full((heads,), usual)) if scale == "learned" and self.attends else None
        self.diagonal = not mask_self
        self.memory = persistent_kv if self.attends else 0
        if self.memory > 0:
            self.memory_key = nn.Parameter(torch.zeros(heads, persistent_kv, self.size))
            self.memory_value = nn.Parameter(torch.zeros(heads, persistent_kv, self.size))
        self.masked = mask_self or self.memory > 0 or site.biases  # else the kernel knows its mask

        self.head_gain = nn.Parameter(torch.ones(self.size)) if head_norm == "rms" else None
        self.head_factor = 1.0 - (second_map.start if isinstance(second_map, Differential) else 0.0)
        self.gate = nn.Linear(width, heads if gate == "head" else width, bias=False) if gate != "none" else None
        self.transposed = output == "transposed"
        self.output = nn.Linear(width, width, bias=bias is not False) if output == "free" else None

    def forward(self, x_BLD: torch.Tensor, flow: ForwardContext) -> torch.Tensor:
        B, L, D = x_BLD.shape
        v_BHLP = self.values_of(x_BLD, flow)
        if self.attends:
            q_BHLP, k_BHLP = self.queries_and_keys(x_BLD, v_BHLP, flow)
            if present(self.second):
                q_BHLP, other_q_BHLP = q_BHLP.chunk(2)
                k_BHLP, other_k_BHLP = k_BHLP.chunk(2)
            a_BHLP = self.attend(q_BHLP, k_BHLP, v_BHLP, flow)  # A V
            y_BHLP = a_BHLP if self.map == 1 else value_of(self.map) * a_BHLP
            if present(self.square):  # A^2 V = A (A V)
                y_BHLP = y_BHLP + value_of(self.square) * self.attend(q_BHLP, k_BHLP, a_BHLP, flow)
            if present(self.second):
                y_BHLP = y_BHLP - value_of(self.second) * self.attend(other_q_BHLP, other_k_BHLP, v_BHLP, flow)
        else:
            y_BHLP = torch.zeros_like(v_BHLP)
        if present(self.identity):  # (A + a I) V = A V + a V
            y_BHLP = y_BHLP + value_of(self.identity) * v_BHLP
        if present(self.uniform):
            y_BHLP = y_BHLP + value_of(self.uniform) * self.average(v_BHLP)
        if present(self.first):
            y_BHLP = y_BHLP + value_of(self.first) * self.heads_of(first_values(flow))
        if present(self.exclusive):  # y - g (y . v) v / |v|^2
            u_BHLP = F.normalize(v_BHLP, dim=-1)
            y_BHLP = y_BHLP - value_of(self.exclusive) * (y_BHLP * u_BHLP).sum(-1, keepdim=True) * u_BHLP
        if self.head_gain is not None:
            y_BHLP = F.rms_norm(y_BHLP, self.head_gain.shape, self.head_gain, 1e-5) * self.head_factor
        y_BLHP = y_BHLP.transpose(1, 2)
        if self.gate is not None:
            y_BLHP = y_BLHP * torch.sigmoid(self.gate(x_BLD)).view(B, L, self.heads, -1)
        y_BLD = y_BLHP.reshape(B, L, D)
        if self.output is not None:
            y_BLD = self.output(y_BLD)
        if self.transposed:
            y_BLD = y_BLD @ self.projections["subspace"].weight  # type: ignore[operator]
        return y_BLD

    def heads_of(self, x_BLD: torch.Tensor) -> torch.Tensor:
        """The entries of a token, dealt to heads: (B, H, L, P)."""
        return x_BLD.view(*x_BLD.shape[:2], -1, self.size).transpose(1, 2)

    def values_of(self, x_BLD: torch.Tensor, flow: ForwardContext) -> torch.Tensor:
        """The values (B, H, L, P), which the first attention of a model leaves to those after it."""
        if not self.owns or (self.values == "first" and flow.first_BLD is not None):  # the first itself, where its weights come again
            return self.heads_of(first_values(flow))
        if self.value == "identity":
            v_BHLP = self.heads_of(x_BLD)
        elif self.qkv == "tied":
            v_BHLP = self.heads_of(self.projections["subspace"](x_BLD))
        elif self.qkv == "shared-kv":
            v_BHLP = self.heads_of(self.projections["key"](x_BLD))
        else:
            v_BHLP = self.heads_of(self.projections["value"](x_BLD))
        if self.repeats > 1:
            v_BHLP = v_BHLP.repeat_interleave(self.repeats, dim=1)
        if flow.first_BLD is None:
            flow.first_BLD = v_BHLP.transpose(1, 2).reshape(x_BLD.shape)
        elif self.values == "both":
            v_BHLP = 0.5 * (v_BHLP + self.heads_of(flow.first_BLD))
        return v_BHLP

    def queries_and_keys(self, x_BLD: torch.Tensor, v_BHLP: torch.Tensor, flow: ForwardContext) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries and keys (B, H, L, P), normed, placed and, where the scale is learned, scaled. With a second map they are
        (2 B, H, L, P / 2): those of the first halves, then those of the second."""
        if self.qkv == "tied":
            q_BHLP, k_BHLP = v_BHLP, v_BHLP
        elif self.qkv == "shared-qk":
            q_BHLP = self.heads_of(self.projections["query"](x_BLD))
            k_BHLP = q_BHLP
        elif self.qkv == "shared-kv":
            q_BHLP = self.heads_of(self.projections["query"](x_BLD))
            k_BHLP = v_BHLP
        else:
            q_BHLP = self.heads_of(self.projections["query"](x_BLD))
            k_BHLP = self.heads_of(self.projections["key"](x_BLD))
            if self.repeats > 1:
                k_BHLP = k_BHLP.repeat_interleave(self.repeats, dim=1)
        if present(self.second):  # before the norm and the turn: a half is a head of its own
            q_BHLP, k_BHLP = torch.cat(q_BHLP.chunk(2, dim=-1)), torch.cat(k_BHLP.chunk(2, dim=-1))
        if self.qk_norm == "l2":
            q_BHLP, k_BHLP = F.normalize(q_BHLP, dim=-1), F.normalize(k_BHLP, dim=-1)
        if self.qk_norm == "rms":
            q_BHLP = F.rms_norm(q_BHLP, self.query_gain.shape, self.query_gain, 1e-5)
            k_BHLP = F.rms_norm(k_BHLP, self.key_gain.shape, self.key_gain, 1e-5)
        if self.rotates:  # after the norm, whose gain would else tell places apart
            turned_BHLP, k_BHLP = flow.positions.rotate(q_BHLP), flow.positions.rotate(k_BHLP)
            if self.memory > 0:  # which stands at no place: a query meets it as it was before the turn, in entries of its own
                q_BHLP, k_BHLP = torch.cat([turned_BHLP, q_BHLP], dim=-1), F.pad(k_BHLP, (0, self.size))
            else:
                q_BHLP = turned_BHLP
        if self.learned_scale is not None:
            q_BHLP = q_BHLP * self.learned_scale.view(-1, 1, 1)
        return q_BHLP, k_BHLP

    def attend(self, q_BHLP: torch.Tensor, k_BHMP: torch.Tensor, v_BHMP: torch.Tensor, flow: ForwardContext) -> torch.Tensor:
        """A V, by the fused kernel where the score is plain softmax, and A is not dropped."""
        L = q_BHLP.shape[-2]
        if self.memory > 0:
            k_BHMP = self.remembered(k_BHMP)
            v_BHMP = torch.cat([self.memory_value.to(v_BHMP.dtype).expand(len(v_BHMP), -1, -1, -1), v_BHMP], dim=-2)
        if self.fused and not self.masked and (self.dropout is None or not self.training):
            return F.scaled_dot_product_attention(q_BHLP, k_BHMP, v_BHMP, is_causal=self.causal, scale=self.scale)
        keep_LM = self.keep(L, q_BHLP.device)
        if self.biases:
            bias_HLM = F.pad(flow.positions.bias(self.heads, L, q_BHLP.device).to(q_BHLP.dtype), (self.memory, 0))
        if self.fused and self.masked and (self.dropout is None or not self.training):
            mask_HLM = bias_HLM.masked_fill(~keep_LM, float("-inf")) if self.biases else keep_LM
            y_BHLP = F.scaled_dot_product_attention(q_BHLP, k_BHMP, v_BHMP, attn_mask=mask_HLM, scale=self.scale)
        else:
            assert self.score is not None
            if self.features:  # of linear attention
                q_BHLP, k_BHMP = F.elu(q_BHLP) + 1, F.elu(k_BHMP) + 1
            s_BHLM = q_BHLP @ k_BHMP.transpose(-1, -2) * self.scale
            if self.softcap != "none":
                s_BHLM = self.softcap * torch.tanh(s_BHLM / self.softcap)
            if self.biases:
                s_BHLM = s_BHLM + bias_HLM
            a_BHLM = self.score(s_BHLM, keep_LM)
            if self.dropout is not None:
                a_BHLM = self.dropout(a_BHLM)
            y_BHLP = a_BHLM @ v_BHMP
        if self.causal and not self.diagonal and self.memory == 0:  # the first token sees none
            y_BHLP = torch.cat([torch.zeros_like(y_BHLP[..., :1, :]), y_BHLP[..., 1:, :]], dim=-2)
        return y_BHLP

    def remembered(self, k_BHLP: torch.Tensor) -> torch.Tensor:
        """The keys of the memory before those of the tokens; in the entries of what was not turned, where keys are turned."""
        key_HMP = F.pad(self.memory_key, (k_BHLP.shape[-1] - self.size, 0))
        return torch.cat([key_HMP.to(k_BHLP.dtype).expand(len(k_BHLP), -1, -1, -1), k_BHLP], dim=-2)

    def keep(self, L: int, device: torch.device) -> torch.Tensor:
        """Which keys a query may see, (L, M); at least one, since softmax over none is not a number."""
        keep_LM = torch.ones(L, L, dtype=torch.bool, device=device)
        if self.causal:
            keep_LM = keep_LM.tril()
        if not self.diagonal:
            keep_LM = keep_LM & ~torch.eye(L, dtype=torch.bool, device=device)
        if self.memory > 0:
            keep_LM = F.pad(keep_LM, (self.memory, 0), value=True)
        elif not self.diagonal and self.causal:
            keep_LM = keep_LM | (torch.arange(L, device=device) == 0) & (torch.arange(L, device=device) == 0).unsqueeze(-1)
        return keep_LM

    def average(self, v_BHLP: torch.Tensor) -> torch.Tensor:
        """C V: the mean of the values of all that a token sees."""
        if self.causal:
            return v_BHLP.cumsum(-2) / torch.arange(1, v_BHLP.shape[-2] + 1, device=v_BHLP.device).view(-1, 1)
        return v_BHLP.mean(-2, keepdim=True).expand_as(v_BHLP)

    def state(self, tokens: int) -> int:
        """Numbers kept per sequence to extend it by one token: keys and values, where they differ and are attended to."""
        wide = self.heads * self.size // self.repeats
        if not self.attends:
            return self.heads * self.size if present(self.uniform) else 0
        if self.features:
            return self.heads * self.size * (self.size + 1)
        caches = 1 if self.qkv in ("tied", "shared-kv") or not self.owns else 2
        return (caches + present(self.square)) * wide * tokens


def first_values(flow: ForwardContext) -> torch.Tensor:
    """The values of the first attention."""
    assert flow.first_BLD is not None
    return flow.first_BLD
