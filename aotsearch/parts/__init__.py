"""The words of the grammar, one file per part of speech.

Shape letters used throughout: B batch, L tokens, D width, H heads, P width of one head, F inner width, V vocabulary.
"""
