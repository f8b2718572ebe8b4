"""The kind `logic`: the last box after the thinking against the puzzle's own rules, in this process.

Every task verifies in less than 10 ms whatever the text, so no worker is asked.
"""

from __future__ import annotations

from forklight_core.errors import InvalidInputError
from forklight_reward.logic.registry import check, rules_version
from forklight_reward.ports import Outcome, Part, Status, Tier
from forklight_reward.verifier.extract import extract_answer
from forklight_reward.verifier.format import format_score

MOST_SHOWN_CHARACTERS = 200


def decide_logic(spec_json: str, response: str) -> Outcome:
    """Parts `correct` and `format`. A specification that cannot be read is an error, never a score."""
    if not spec_json.strip():
        raise InvalidInputError(
            "the logic task has no specification: set `spec` in the prompt file "
            "(`forklight logic generate` writes such files)"
        )
    extraction = extract_answer(response)
    # The specification is checked even when there is no answer: a broken one is nobody's wrong answer.
    is_right = check(spec_json, extraction.answer or "")
    if extraction.answer is None:
        is_right, evidence = False, extraction.reason
    else:
        evidence = f"logic rules: {'right' if is_right else 'not right'}: "
        evidence += extraction.answer[:MOST_SHOWN_CHARACTERS]
    return Outcome(
        status=Status.OK if is_right else Status.WRONG,
        parts={Part.CORRECT: float(is_right), Part.FORMAT: format_score(response)},
        evidence=evidence,
        worker="rules",
        worker_version=rules_version(),
        tier=Tier.INLINE,
    )
