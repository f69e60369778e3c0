"""Objects that live as long as the engine are spared by the garbage collector, and freed after it."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from light_tts import collector


class Node:
    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_settled_is_not_looked_at_until_it_is_given_up() -> None:
    node = Node()
    seen = weakref.ref(node)
    collector.settle()
    assert gc.get_freeze_count() > 0
    del node
    gc.collect()
    assert seen() is not None
    collector.unsettle()
    gc.collect()
    assert seen() is None


def test_garbage_is_not_kept_by_settling() -> None:
    seen = weakref.ref(Node())
    collector.settle()
    assert seen() is None
