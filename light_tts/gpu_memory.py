"""The memory plan of this process on its GPU: made from what is free now, said in the log, and enforced."""

from __future__ import annotations

import logging

import torch

from light_tts.llm.weight_plan import WeightPlan
from light_tts.memory_plan import CONTEXT_BYTES, MB, MemoryPlan, plan_memory
from light_tts.model_sizes import Precision, sizes_of_directory
from light_tts.models.model_dir import ModelDirectory
from light_tts.placement import Placement
from light_tts.settings import Settings

logger = logging.getLogger(__name__)


def claim_gpu_memory(
    settings: Settings, directory: ModelDirectory, placement: Placement, weights: WeightPlan
) -> MemoryPlan | None:
    """Plan, log the budget, and bind torch's allocator to it; before anything is loaded. None on CPU.

    With `gpu_memory_utilization` the allocator refuses what goes beyond the cap, so that neighbours are safe: a request
    that would need it fails alone. Raises ConfigError, see `plan_memory`.
    """
    if placement.device.type != "cuda":
        return None
    precision = Precision.of(settings, placement.describe(), weights)
    sizes = sizes_of_directory(directory, precision, steps=settings.acoustic.flow_steps)
    free_bytes, total_bytes = torch.cuda.mem_get_info(placement.device)
    # The context is there already, kernels are loaded as they are met: about half of the part is taken by now.
    plan = plan_memory(sizes, settings, total_bytes=total_bytes, available_bytes=free_bytes + CONTEXT_BYTES // 2)
    log_plan(plan)
    is_capped = settings.engine.gpu_memory_utilization is not None
    # Of the current device, where the placement is: torch takes no device without an index here.
    torch.cuda.set_per_process_memory_fraction(plan.allocator_fraction if is_capped else 1.0)
    return plan


def log_plan(plan: MemoryPlan) -> None:
    """One line per part."""
    for name, num_bytes in (*plan.parts, ("left", plan.free_bytes)):
        logger.info("GPU memory: %s: %.0f MB", name, num_bytes / MB)
    logger.info("GPU memory: all of it: %.0f MB of %.0f MB", plan.cap_bytes / MB, plan.total_bytes / MB)
    for change in plan.changes:
        logger.warning("%s", change)
