"""The public names and signatures, as a list in a file: changing them takes a deliberate step.

Update it with `ALIGNJAX_UPDATE_NAMES=1 .venv/bin/python -m pytest tests/core/test_public_names.py`, and read its diff.
"""

import inspect
import os
from pathlib import Path

import pytest

import alignjax as aj
from alignjax import envs, games, multiobjective

MODULES = (aj, games, envs, multiobjective)
LIST = Path(__file__).with_name("public_names.txt")


def signature(thing):
    """The parameters and their defaults, without annotations (which say shapes, and may become sharper)."""
    parts = inspect.signature(thing)
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parts.parameters.values()]
    return str(parts.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def described(prefix, module):
    for name in sorted(module.__all__):
        thing = getattr(module, name)
        if inspect.isfunction(thing):
            yield f"{prefix}.{name}{signature(thing)}"
        elif inspect.isclass(thing):
            members = sorted(n for n in vars(thing) if not n.startswith("_"))
            fields = "" if issubclass(thing, Exception) else signature(thing)
            yield f"{prefix}.{name}{fields}: {', '.join(members)}"
        else:
            yield f"{prefix}.{name}"


def current():
    modules = {
        "alignjax": aj,
        "alignjax.games": games,
        "alignjax.envs": envs,
        "alignjax.multiobjective": multiobjective,
    }
    lines = [line for prefix, module in modules.items() for line in described(prefix, module)]
    for row in games.SOLVERS:
        lines.append(f"solver {row.name}: {row.defaults}")
    for name in sorted(aj.methods):
        method = aj.methods[name]
        lines.append(f"method {name}{signature(method.loss)}: {dict(method.defaults)}")
    return lines


def test_public_names_are_those_of_the_list():
    lines = current()
    assert len(lines) > 50
    if os.environ.get("ALIGNJAX_UPDATE_NAMES"):
        LIST.write_text("\n".join(lines) + "\n")
    expected = LIST.read_text().splitlines()
    gone, new = sorted(set(expected) - set(lines)), sorted(set(lines) - set(expected))
    assert not gone and not new, f"gone: {gone}\nnew: {new}\nIf meant: see the docstring of {Path(__file__).name}"
    assert lines == expected


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_every_public_name_exists_and_is_documented(module):
    assert len(set(module.__all__)) == len(module.__all__) > 0
    for name in module.__all__:
        thing = getattr(module, name)
        if callable(thing):
            assert inspect.getdoc(thing), f"{module.__name__}.{name} has no docstring"


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = aj.nothing
