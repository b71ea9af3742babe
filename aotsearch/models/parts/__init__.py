"""The words of the grammar, one file per part of speech.

Every part is built as `Word(site, **options)`: `site`, a `LayerContext`, says where it stands, the options are its own. What a forward
pass carries from part to part is `flow`, a `ForwardContext`. Shape letters used throughout: B batch, L tokens, D width, H heads, P = D / H
width of one head, F inner width, V vocabulary.
"""
