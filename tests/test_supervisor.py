"""What is said of stages that died or hang. Restarts are tested with real stages in test_engine_life.py."""

import time

import pytest

from light_tts.events import NO_EVENTS
from light_tts.supervisor import Supervisor


class Stage:
    def __init__(self, *, is_alive=True, busy_s=None):
        self.is_alive = is_alive
        self.busy_since_s = None if busy_s is None else time.monotonic() - busy_s
        self.on_death = None

    def start(self):
        """Runs already."""

    def join(self):
        """Ends at once."""


@pytest.mark.parametrize(
    ("stages", "complaint"),
    [
        ({"a": Stage(), "b": Stage(busy_s=9_000)}, None),
        ({"a": Stage(busy_s=50_000), "b": Stage()}, "a: no end of a step for 20000 s"),
        ({"a": Stage(busy_s=50_000), "b": Stage(busy_s=60_000)}, "a and b: no end of a step for 20000 s"),
        ({"a": Stage(busy_s=50_000), "b": Stage(is_alive=False)}, "b: the thread has died"),
    ],
)
def test_what_is_wrong_with_the_stages(stages, complaint):
    assert Supervisor(stages, NO_EVENTS, max_restarts=1).complaint(20_000.0) == complaint
