"""A sample of the odd inputs; `scripts/try_odd_inputs` tries all of them, with any seed."""

from pathlib import Path

import pytest
from odd_inputs import Attempt, find_problems, make_attempts

SEED = 0
SAMPLE = 40

ATTEMPTS = make_attempts(SEED)


def test_there_are_enough_and_of_every_command() -> None:
    assert len(ATTEMPTS) >= 300
    assert len({attempt.name for attempt in ATTEMPTS}) >= 250


@pytest.mark.parametrize("attempt", ATTEMPTS[:SAMPLE], ids=lambda attempt: ascii(attempt.name))
def test_nothing_a_user_has_or_does_is_mishandled(attempt: Attempt, tmp_path: Path) -> None:
    assert find_problems(attempt, tmp_path) == []
