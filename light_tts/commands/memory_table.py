"""`light-tts doctor --plan`: what GPUs of several sizes would be used for. Needs no GPU and loads no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from light_tts.assets import builtin_model_dir
from light_tts.errors import ConfigError
from light_tts.llm.weight_plan import plan_weights
from light_tts.memory_plan import MB, MOST_UTILIZATION, MemoryPlan, plan_memory
from light_tts.model_sizes import ModelSizes, Precision, sizes_of_directory, sizes_of_family
from light_tts.models.model_dir import ModelDirectory
from light_tts.settings import DType, Settings

GPU_SIZES_GB = (8.0, 12.0, 16.0, 24.0)
_AUTOMATIC = {"llm": "bfloat16", "flow": "bfloat16", "vocoder": "float16"}  # on Ampere and newer


def memory_table(settings: Settings, family: str | None, gpu_sizes_gb: Sequence[float]) -> str:
    """A column for each GPU, a line for each part, in MB (2^20 bytes).

    family:  plan for its published model instead of for the model directory of the settings.
    Raises CheckpointError for a directory or family that is not there.
    """
    share = settings.engine.gpu_memory_utilization or MOST_UTILIZATION
    settings = replace(settings, engine=replace(settings.engine, gpu_memory_utilization=share))
    precision = precision_of(settings)
    sizes = _sizes(settings, family, precision)
    plans: list[MemoryPlan | str] = []
    for size_gb in gpu_sizes_gb:
        try:
            plans.append(plan_memory(sizes, settings, total_bytes=round(size_gb * 1024) * MB))
        except ConfigError as error:
            plans.append(str(error))
    dtypes = f"language model {precision.llm}, flow {precision.flow}, vocoder {precision.vocoder}"
    lines = [f"{sizes.name}; {dtypes}; gpu_memory_utilization {share:g}; MB", ""]
    lines += _table(plans, gpu_sizes_gb, sizes)
    lines += [
        f"{size_gb:g} GB: {plan}" for size_gb, plan in zip(gpu_sizes_gb, plans, strict=True) if isinstance(plan, str)
    ]
    return "\n".join(lines)


def precision_of(settings: Settings) -> Precision:
    """What `auto` means on Ampere and newer. Raises ConfigError for a file of quantisation that cannot be followed."""

    def dtype(stage: str, wanted: DType) -> str:
        return _AUTOMATIC[stage] if wanted == "auto" else wanted

    model = settings.model
    wanted = {"llm": model.llm_dtype, "flow": model.flow_dtype, "vocoder": model.vocoder_dtype}
    dtypes = {stage: dtype(stage, name) for stage, name in wanted.items()}
    return Precision.of(settings, dtypes, plan_weights(settings.llm))


def _sizes(settings: Settings, family: str | None, precision: Precision) -> ModelSizes:
    steps = settings.acoustic.flow_steps
    if family is not None:
        return sizes_of_family(family, precision, steps=steps)
    directory = ModelDirectory.open(settings.model.model_dir or builtin_model_dir(), styles_outside=True)
    return sizes_of_directory(directory, precision, steps=steps)


def _table(plans: Sequence[MemoryPlan | str], gpu_sizes_gb: Sequence[float], sizes: ModelSizes) -> list[str]:
    fitting = [plan for plan in plans if isinstance(plan, MemoryPlan)]
    names = [part.name for part in fitting[0].parts] if fitting else []
    rows: dict[str, list[str]] = {name: [] for name in (*names, "left", "all of it")}
    rows |= {"tokens in the KV cache": [], "seconds of voices' prompts kept": [], "seconds of streams kept": []}
    for plan in plans:
        if isinstance(plan, str):
            cells = ["-"] * len(rows)
        else:
            seconds = [
                f"{mb * MB / sizes.flow_page * sizes.flow_page_s:.0f}"
                for mb in (plan.prompt_cache_mb, plan.stream_cache_mb)
            ]
            numbers = [*(part.num_bytes for part in plan.parts), plan.free_bytes, plan.cap_bytes]
            cells = [*(f"{number / MB:.0f}" for number in numbers), str(plan.max_total_tokens), *seconds]
        for row, cell in zip(rows.values(), cells, strict=True):
            row.append(cell)
    width = max(map(len, rows))
    heads = [f"{size_gb:g} GB" for size_gb in gpu_sizes_gb]
    return [
        f"{name:<{width}}" + "".join(f"{cell:>10}" for cell in cells)
        for name, cells in ({"part": heads} | rows).items()
    ] + [""]
