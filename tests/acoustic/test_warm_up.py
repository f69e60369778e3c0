"""The cost table begins with calls that were really made."""

import pytest
import torch

from light_tts.acoustic.flow import FlowDecoder
from light_tts.acoustic.stage_costs import CostTable
from light_tts.acoustic.vocoder import Vocoder
from light_tts.acoustic.warm_up import measure_costs
from light_tts.assets import builtin_model_dir
from light_tts.models.model_dir import ModelDirectory


@pytest.fixture(scope="module")
def stages():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    directory = ModelDirectory.open(builtin_model_dir())
    flow = FlowDecoder(directory.load_flow(), prompt_cache_bytes=2**26, stream_cache_bytes=2**28)
    yield flow, Vocoder(directory.load_vocoder())
    torch.set_num_threads(threads)


def test_a_chunk_is_always_measured_and_nothing_is_left_behind(stages):
    flow, vocoder = stages
    costs = CostTable()
    measure_costs(flow, vocoder, costs, max_batch=2, budget_s=0.5)
    measured = {(rows, frames): seconds for rows, frames, seconds in costs.measured()}
    assert (1, 50) in measured
    assert all(rows <= 2 and seconds > 0.0 for (rows, _), seconds in measured.items())
    assert flow.stream_budget.used_bytes == 0
    assert len(flow.prompts) == 0


def test_calls_that_do_not_fit_into_the_budget_are_left_out(stages):
    costs = CostTable()
    measure_costs(*stages, costs, max_batch=16, budget_s=0.0)
    assert [call[:2] for call in costs.measured()] == [(1, 50)]
