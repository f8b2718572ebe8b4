"""Walls on the size of files and functions, and on the number of parameters."""

from __future__ import annotations

import ast

from tests.architecture.sources import (
    Function,
    functions_of,
    is_kernel,
    is_kernel_body,
    name_of,
    python_files,
)

MOST_LINES = 400
MOST_KERNEL_LINES = 600
MOST_FUNCTION_LINES = 50
MOST_PARAMETERS = 6
GIVEN_BY_TORCH = {"_load_from_state_dict"}  # overridden with torch's own signature


def num_parameters(function: Function) -> int:
    """Named parameters, less the object a method or autograd function is called on."""
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls", "ctx")])


def test_files_stay_under_the_wall() -> None:
    too_long = []
    for path in python_files():
        num_lines = len(path.read_text(encoding="utf-8").splitlines())
        wall = MOST_KERNEL_LINES if is_kernel(path) else MOST_LINES
        if num_lines > wall:
            too_long.append(f"{name_of(path)}: {num_lines} lines, the wall is {wall}")
    assert not too_long, "\n".join(too_long)


def test_functions_stay_under_the_wall() -> None:
    too_long = [
        f"{name_of(path)}:{function.lineno} {function.name}: {num_lines} lines"
        for path in python_files()
        for function in functions_of(path)
        if (num_lines := (function.end_lineno or 0) - function.lineno + 1) > MOST_FUNCTION_LINES
        and not is_kernel_body(function)
    ]
    assert not too_long, "\n".join(too_long)


def test_functions_take_few_parameters() -> None:
    too_many = [
        f"{name_of(path)}:{function.lineno} {function.name}: {num_parameters(function)} parameters"
        for path in python_files()
        for function in functions_of(path)
        if num_parameters(function) > MOST_PARAMETERS
        and not is_kernel_body(function)
        and function.name not in GIVEN_BY_TORCH
    ]
    assert not too_many, "\n".join(too_many)


def test_the_walls_see_what_they_measure() -> None:
    module = ast.parse("def f(self, a, *, b, c, **rest): ...\n")
    function = module.body[0]
    assert isinstance(function, ast.FunctionDef)
    assert num_parameters(function) == 3
    assert len(python_files()) > 100
