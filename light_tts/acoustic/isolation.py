"""A call for many that fails is repeated for each alone, so that only the guilty one goes without."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from light_tts.models.device_errors import is_device_lost

logger = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def together_or_alone(compute: Callable[[list[_Item]], list[_Result]], items: list[_Item]) -> list[_Result | Exception]:
    """Results of one call for all items; when it fails, of one call each, or why there is none.

    `compute` must leave everything as it was when it raises. Raises when the device is lost, to everybody.
    """
    if not items:
        return []
    try:
        return list(compute(items))
    except Exception as error:
        if is_device_lost(error):
            raise
        if len(items) == 1:
            return [error]
        logger.warning("a batch of %d hops failed (%s); running them one by one", len(items), error)
    return [result for item in items for result in together_or_alone(compute, [item])]
