"""Finite languages as one minimal acyclic automaton, in which two ways to write a word are one path, so that paths are counted exactly.

A language maps a shape to a node of the automaton. A shape says, place by place, where the letter comes from: None is a letter of the
node's path, `("tied", d)` shares the weights of the place d before, `("same", d)` repeats its letter with weights of its own.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

Shape = tuple[tuple[str, int] | None, ...]
Language = dict[Shape, int]
Word = tuple[int, ...]

END = 0  # the node of the empty word
EMPTY: Language = {(): END}  # the language of the empty word alone; {} has no word
EXPAND = 2_000  # words of a repeated body that are written out; more are kept as "same"
LETTERS = 100_000  # different letters at one place
PLACES = 2_000  # letters of a word
WORK = 450_000  # steps of building, so that every count ends (within a second)


class TooLarge(Exception):
    """The language is beyond what is built exactly."""


class Automaton:
    """Nodes with their edges; equal nodes are one."""

    def __init__(self) -> None:
        self.nodes: list[dict[int, int]] = [{}]  # node -> letter -> node
        self.index: dict[tuple[tuple[int, int], ...], int] = {(): END}
        self.unions: dict[tuple[int, int], int] = {}
        self.paths: dict[int, int] = {END: 1}
        self.work = 0

    def spend(self, steps: int) -> None:
        self.work += steps
        if self.work > WORK:
            raise TooLarge

    # --- nodes ---

    def node(self, edges: dict[int, int]) -> int:
        self.spend(1 + len(edges))
        key = tuple(sorted(edges.items()))
        if key not in self.index:
            if len(edges) > LETTERS or len(self.nodes) > 20 * LETTERS:
                raise TooLarge
            self.index[key] = len(self.nodes)
            self.nodes.append(edges)
        return self.index[key]

    def count(self, node: int) -> int:
        """How many paths lead from a node to the end."""
        if node not in self.paths:
            self.paths[node] = sum(map(self.count, self.nodes[node].values()))
        return self.paths[node]

    def words(self, node: int) -> Iterator[Word]:
        if node == END:
            yield ()
        for letter, child in self.nodes[node].items():
            for rest in self.words(child):
                yield (letter, *rest)

    def _tree(self, words: list[tuple[Word, Word]]) -> int:
        """The node of some words of one length, each given as the letters that tell it from the others and the rest."""
        if not words[0][0]:
            node = END
            for letter in reversed(words[0][1]):
                node = self.node({letter: node})
            return node
        branches: dict[int, list[tuple[Word, Word]]] = {}
        for head, rest in words:
            branches.setdefault(head[0], []).append((head[1:], rest))
        return self.node({letter: self._tree(inner) for letter, inner in branches.items()})

    def _append(self, left: int, right: int, memo: dict[int, int]) -> int:
        if left == END:
            return right
        if left not in memo:
            memo[left] = self.node({letter: self._append(child, right, memo) for letter, child in self.nodes[left].items()})
        return memo[left]

    def _merge(self, a: int, b: int) -> int:
        if a == b:
            return a
        key = (min(a, b), max(a, b))
        if key not in self.unions:
            edges = dict(self.nodes[a])
            for letter, child in self.nodes[b].items():
                edges[letter] = self._merge(edges[letter], child) if letter in edges else child
            self.unions[key] = self.node(edges)
        return self.unions[key]

    # --- languages ---

    def union(self, a: Language, b: Language) -> Language:
        self.spend(1 + len(a) // 10)
        found = dict(a)
        for shape, node in b.items():
            found[shape] = self._merge(found[shape], node) if shape in found else node
        return found

    def concatenate(self, parts: list[Language]) -> Language:
        joined = parts[-1] if parts else EMPTY
        for left in reversed(parts[:-1]):
            found: Language = {}
            for (a, m), (b, n) in itertools.product(left.items(), joined.items()):
                if len(a) + len(b) > PLACES or len(found) > PLACES:
                    raise TooLarge
                self.spend(1 + (len(a) + len(b)) // 10)
                found = self.union(found, {a + b: self._append(m, n, {})})
            joined = found
        return joined

    def copies(self, body: Language, times: int, tied: bool) -> Language:
        """Each word of a body so many times over, the same each time; `tied`, with the weights of the first."""
        found: Language = {}
        for shape, node in body.items():
            if len(shape) * times > PLACES:
                raise TooLarge
            self.spend(1 + len(shape) * times // 10)
            if tied:
                roots = [i if mark is None or mark[0] == "same" else i - mark[1] for i, mark in enumerate(shape)]
                marks = list(shape)
                for copy in range(1, times):
                    marks += [("tied", copy * len(shape) + i - root) for i, root in enumerate(roots)]
                found = self.union(found, {tuple(marks): node})
            elif times == 1 or not any(mark is None for mark in shape):
                found = self.union(found, {shape * times: node})
            elif self.count(node) <= EXPAND and not any(mark and mark[0] == "same" for mark in shape):
                written = self._tree([(word, word * (times - 1)) for word in self.words(node)])
                found = self.union(found, {shape * times: written})
            else:
                again = [("same", len(shape)) if mark is None else mark for mark in shape]
                found = self.union(found, {shape + tuple(again) * (times - 1): node})
        return found

    def size(self, language: Language) -> tuple[int, bool]:
        """How many words, and whether that is exact: where a repetition that was not written out may equal other words, it is a bound."""
        written = Counter(tuple(m if m and m[0] == "tied" else None for m in shape) for shape in language)
        return sum(map(self.count, language.values())), all(times == 1 for times in written.values())
