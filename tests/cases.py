"""Products of cases, of which the fast suite takes a part."""

import pytest

FURTHER = (pytest.mark.slow, pytest.mark.further)
"""Of a case whose kind the fast suite has: it runs with the slow suite, and where the mutation run plants a bug."""


def thinned(cases, *kept):
    """The cases as parameters; those that are not `kept`, by value or by a function of the case, are further ones."""
    by_function = [test for test in kept if callable(test)]
    return [
        case
        if case in kept or any(test(case) for test in by_function)
        else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=FURTHER)
        for case in cases
    ]


def is_default(spec):
    """Whether a spec string has no options."""
    return ":" not in spec
