"""The table of the verifier: what is right and what is not, with pairs that math-verify alone gets wrong."""

from __future__ import annotations

import pytest

from forklight_reward.verifier.pool import MathPool
from forklight_reward.verifier.verify import MathStatus, verify_math

EQUAL = [
    ("1/2", "0.5"),
    ("1000", "1,000"),
    ("602000000000000000000000", r"6.02\times10^{23}"),
    ("602000000000000000000000", "6.02\u00d710\u00b2\u00b3"),
    ("602000000000000000000000", "6.02 * 10^23"),
    ("1/3", r"0.\overline{3}"),
    ("3/2", r"1\frac12"),
    ("7", "7."),
    (r"2\sqrt{2}", r"\sqrt{8}"),
    ("120", "5!"),
    ("1/2", r"\cos(60^\circ)"),
    ("1/2", "cos(60\u00b0)"),
    ("-1", r"e^{i\pi}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("x+1", "(x^2-1)/(x-1)"),
    ("5", "x=5"),
    ("y=2x+1", "2x-y+1=0"),
    (r"\{1,2\}", r"\{1,1,2\}"),
    (r"\{-3,3\}", r"\pm 3"),
    (r"\{-3,3\}", r"x=3 \text{ or } x=-3"),
    (r"\{-3,3\}", "x=3 or x=-3"),
    ("[1,3]", r"1\le x\le 3"),
    ("[1,3]", "1\u2264x\u22643"),
    (r"(-\infty,3)", "x<3"),
    ("x>3", "3<x"),
    (r"(-\infty,1)\cup(2,3)", r"(2,3)\cup(-\infty,1)"),
    (r"\emptyset", r"\varnothing"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\ 3&4\end{bmatrix}"),
    ("A", r"\text{(A)}"),
    (r"\frac{\pi}{2}", "\u03c0/2"),
    (r"\frac{1}{2}", "\u00bd"),
    (r"\sqrt{2}", "\u221a2"),
    ("x^2", "x\u00b2"),
    ("0.25", r"\frac14"),
    ("50", r"50\%"),
    ("0.5", r"50\%"),
    ("5", r"5\text{ cm}"),
    ("5.5", r"\$5.50"),
    ("(3,\\frac{\\pi}{2})", r"\left( 3, \pi/2 \right)"),
    ("1.5x", r"\frac{3x}{2}"),
    (r"\text{east}", "East."),
    ("[1,\\sqrt{2}]", r"1 \leq t \leq \sqrt2"),
    ("10", r"\binom{5}{2}"),
    (r"x\in(2,3]", r"2<x\leq 3"),
    ("7/2", "3 1/2"),
    ("1000", r"\$1{,}000"),
    (r"\sqrt[3]{2}", "2^{1/3}"),
    (r"3+4i", "4i+3"),
    ("1", r"0.\overline{9}"),
    ("6,7", r"6 \text{ or } 7"),
    ("12345678901234567890", "12345678901234567890"),
]
DIFFERENT = [
    ("1/3", "0.333"),
    ("1000", "1.000"),
    (r"\sqrt{2}", "1.41421356"),
    (r"\pi", "3.14"),
    (r"\pi", "3.14159265358979"),
    ("(1,2)", "(2,1)"),
    ("3", r"\pm 3"),
    ("(0,1)", "[0,1]"),
    ("11", "11_2"),
    ("11", "11_{2}"),
    ("3", r"\boxed{3} \text{ or rather } \boxed{4}"),
    ("3", r"\boxed{1}\boxed{2}\boxed{3}\boxed{4}"),
    ("42", r"<think>\boxed{42}</think> I do not know"),
    ("42", r"<think>\boxed{42}"),
    ("10", "10 apples and 12 oranges"),
    ("1/3", r"\int_0^1 x^2\,dx"),
    ("1/3", "\u222b\u2080\u00b9x\u00b2dx"),
    ("7", "x+y=7"),
    ("5", "5x"),
    ("5 km", "5 m"),
    ("", ""),
    ("5", ""),
    ("x=5", "y=5"),
    ("1", r"\_\_import\_\_('os')"),
    ("dog", "god"),
    ("1", "0.9999999999999999999"),
    ("3+4i", "3-4i"),
    (r"2\pi", "6.28318530717958"),
    ("4", "-2^2"),
    ("A", "B"),
    ("(-\\infty,3)", r"x\le 3"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_answer_is_correct_when_it_means_the_same(gold: str, answer: str, pool: MathPool) -> None:
    verdict = verify_math(gold, answer, pool=pool, wait_s=120)
    assert verdict.correct, verdict
    assert verdict.status is MathStatus.OK


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_answer_is_not_correct_when_it_means_something_else(gold: str, answer: str, pool: MathPool) -> None:
    verdict = verify_math(gold, answer, pool=pool, wait_s=120)
    assert not verdict.correct, verdict
    assert verdict.status in (MathStatus.WRONG, MathStatus.UNVERIFIABLE)


@pytest.mark.parametrize(
    "bomb", ["9^{9^{9^{9}}}", "9^9^9^9", "(10^9)!", r"\sum_{k=1}^{10^9} k", "1" * 3000 + "x", "(" * 500 + "1"]
)
def test_bomb_is_refused_without_evaluation_when_the_guard_knows_it(bomb: str, pool: MathPool) -> None:
    started = pool.stats.num_started
    assert verify_math("1", bomb, pool=pool).status is MathStatus.UNVERIFIABLE
    assert pool.stats.num_started == started
