import subprocess
import sys

import pytest
import torch

from sslortho.optim.never_compiled import constant_when_compiled, never_compiled
from sslortho.optim.polar_factor.polynomials import polar_express_schedule


def trace(function, argument):
    """Operations that the compiler saw, and the value."""
    seen = []

    def backend(graph, inputs):
        seen.extend(node.target for node in graph.graph.nodes if node.op != "placeholder")
        return graph.forward

    torch.compiler.reset()
    value = torch.compile(function, backend=backend)(argument)
    torch.compiler.reset()
    return str(seen), value


def inner(x):
    return x.cos()


@pytest.mark.slow
def test_neither_the_function_nor_what_it_calls_is_compiled():
    marked = never_compiled(lambda x: inner(x).tan())
    for never in (marked, torch.compiler.disable(lambda x: inner(x).tan())):
        seen, value = trace(lambda x, never=never: never(x.sin()).exp(), torch.ones(2))
        assert "sin" in seen
        assert "exp" in seen
        assert "cos" not in seen
        assert "tan" not in seen
        torch.testing.assert_close(value, torch.ones(2).sin().cos().tan().exp())
    seen, _ = trace(lambda x: inner(x).exp(), torch.ones(2))
    assert "cos" in seen  # or the rest would prove nothing


PROGRAM = """
import sys
import torch
from sslortho.optim.never_compiled import never_compiled

def count(x, *, times=1):
    "Docstring."
    calls.append("torch._dynamo" in sys.modules)
    return x * times

calls, marked = [], never_compiled(count)
assert (marked.__name__, marked.__doc__) == ("count", "Docstring.")
assert marked(2, times=3) == 6 and calls == [False], "the compiler was imported"
import torch._dynamo
assert marked(2) == 2 and calls == [False, True]
"""


def test_the_compiler_is_not_imported_by_a_call():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)


@pytest.mark.slow
def test_a_constant_has_the_mark_that_torch_sets():
    of_torch = torch.compiler.assume_constant_result(lambda: None)
    assert vars(of_torch)
    assert vars(of_torch) == vars(constant_when_compiled(lambda: None))
    assert vars(of_torch).items() <= vars(polar_express_schedule).items()
