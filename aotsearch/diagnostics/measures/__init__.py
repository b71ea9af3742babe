"""The diagnostics themselves: functions of tensors and of what `probe` saw of a sublayer. The page of them is docs/diagnostics.md.

A function gives one number per window, or more (per head, per token), whose mean is meant; None or what is not finite where there is none.
The docstring of each is read as text: a sentence, the formula, `Source:` and `Differs:`.

Shape letters: B windows, L = N tokens, M keys, D width, H heads, P width of one head.
"""

# ruff: noqa: F401

from aotsearch.diagnostics.measures.energy import dirichlet_energy, objective_change, variational_objective
from aotsearch.diagnostics.measures.gradients import gradient_norm
from aotsearch.diagnostics.measures.maps import attention_entropy, attention_evenness, diagonal_mass, first_mass, singular_gap, value_cosine
from aotsearch.diagnostics.measures.seen import Call, Map, Subspaces
from aotsearch.diagnostics.measures.stream import effective_rank, hidden_rms, kurtosis, rank_one_residual, stable_rank, token_cosine
from aotsearch.diagnostics.measures.sublayer import block_influence, coefficient, contribution, saturation, step_size
from aotsearch.diagnostics.measures.subspaces import (
    coding_rate,
    compressed_rate,
    compression,
    density,
    orthogonality,
    overlap,
    rate_reduction,
    snr,
    snr_gain,
    sparse_rate_reduction,
)
