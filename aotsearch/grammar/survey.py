"""Every decision of a grammar by address: those that the reference meets, and where the others would be met.

The walk of the reference, followed by form and without building anything, with a look into the alternatives that it does not take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from aotsearch.errors import InputError
from aotsearch.grammar import forms
from aotsearch.grammar.architecture import MAX_SUBLAYERS
from aotsearch.grammar.decision import Decision
from aotsearch.grammar.forms import Choice, Fixed, Form, ModelForm, Range, Recurse, Repeat

MAX_VISITS = 200_000  # forms at places


def survey(form: ModelForm) -> dict[str, tuple[Decision, str]]:
    """Address -> the decision, and where it is met, in words; empty where the reference meets it.

    Under an `each` that the reference meets, every place is visited and the first of those that it could have besides; of one that it
    does not meet, the first place; of a recursion that it does not meet, the first level.

    Raises:
        InputError: there are too many places.
    """
    found = _Survey(form)
    found.visit(form, "", {}, "")
    return found.decisions


class _Survey:
    def __init__(self, form: ModelForm):
        self.form = form
        self.decisions: dict[str, tuple[Decision, str]] = {}
        self.depth: Counter[str] = Counter()  # of the recursion of each rule
        self.visits = 0

    def visit(self, form: Form, prefix: str, shared: Mapping[str, str], where: str) -> None:
        """What a form holds, decided under a prefix; `shared` maps the rules that an `each` shares to the prefix under which they are."""
        self.visits += 1
        if self.visits > MAX_VISITS:
            raise InputError(f"the decisions at all places of each are more than can be listed ({MAX_VISITS:,} forms)", self.form.mark)
        if isinstance(form, Choice):
            decision = self.decide(form, prefix, shared, where)
            for label, inner in zip(form.labels, form.forms, strict=True):
                taken = label is decision.reference  # not by equality: 1 == True
                if taken or any(label is v for v in decision.values):
                    self.visit(inner, prefix, shared, where if taken else f"only inside {decision.name}={label}")
        elif isinstance(form, Range):
            self.decide(form, prefix, shared, where)
        elif isinstance(form, Repeat) and form.address is not None:
            self.places(form, prefix, shared, where)
        elif isinstance(form, Recurse):
            self.depth[form.rule] += 1
            inside = f"{prefix}{form.address}."
            if where:
                self.decide(self.form.recursive[form.rule], inside, shared, where)
            else:
                self.visit(self.form.recursive[form.rule], inside, shared, where)
            self.depth[form.rule] -= 1
        else:
            for child in forms.children(form):
                self.visit(child, prefix, shared, where)

    def decide(self, form: Choice | Range, prefix: str, shared: Mapping[str, str], where: str) -> Decision:
        decision = Decision.of(form, shared.get(form.rule, prefix), self.depth[form.rule])
        if not where or decision.address not in self.decisions:
            self.decisions[decision.address] = decision, where
        return decision

    def places(self, form: Repeat, prefix: str, shared: Mapping[str, str], where: str) -> None:
        self.visit(form.times, prefix, shared, where)
        inner = {**shared, **{rule: shared.get(rule, prefix) for rule in form.share}}
        times, most = _times(form.times)
        for place in range(1 if where else min(times, MAX_SUBLAYERS)):  # with more, the reference is refused
            self.visit(form.body, f"{prefix}{form.address}.{place}.", inner, where)
        if not where and most > times:
            counted = next(f for f in forms.walk(form.times) if isinstance(f, Choice | Range))
            beyond = f"only where {counted.address} is above {times}"
            self.visit(form.body, f"{prefix}{form.address}.{times}.", inner, beyond)


def _times(form: Form) -> tuple[int, int]:
    """How many places the reference has, and how many there may be."""
    most = max(f.value if isinstance(f, Fixed) else f.high for f in forms.walk(form) if isinstance(f, Fixed | Range))
    while isinstance(form, Choice):
        form = form.forms[0]
    assert isinstance(form, Fixed | Range), form
    return int(form.value if isinstance(form, Fixed) else form.low), int(most)
