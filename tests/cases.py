"""Products of cases, of which the fast suite takes a part; libraries that are loaded where a test asks for them."""

import importlib
import importlib.util

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


def skip_module_without(*libraries):
    """Skip the tests of a module where a library is missing; to find it loads nothing, which would take seconds."""
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed", allow_module_level=True)


class Lazily:
    """A module that is loaded when something of it is asked for, and not where tests are collected."""

    def __init__(self, name):
        self.name = name

    def __getattr__(self, attribute):
        """What stands under this name in the module."""
        if attribute.startswith("_"):  # pytest asks all that a test module holds whether it is a fixture
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self.name), attribute)
