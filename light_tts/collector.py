"""Python's garbage collector, which stops all threads while it looks through every object.

With the objects of torch and of a loaded engine that takes 0.1 to 0.3 s, and nobody hears anything meanwhile. They live
as long as the engine, so they need not be looked at. Holds for the whole process.
"""

from __future__ import annotations

import gc


def settle() -> None:
    """Nothing that exists now is looked at again until `unsettle`; before that, what is garbage is freed."""
    gc.collect()
    gc.freeze()


def unsettle() -> None:
    """Look at everything again, so that an engine that is closed can be freed."""
    gc.unfreeze()
