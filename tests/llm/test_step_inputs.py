"""What is written of a group that goes on is what would be written of it anew."""

import pytest
import torch

from light_tts.llm.sequence_table import SequenceTable
from light_tts.llm.step_inputs import StepInputs
from light_tts.llm.step_shape import places_of
from tests.llm.test_cuda_graph import CountedSteps, crowd
from tests.llm.tiny_llm import RecordingSink, make_engine, prompt_of, run_dry


class CheckedSteps(CountedSteps):
    """Compares the inputs of each step with those written by somebody who has never seen the sequences."""

    num_checked = num_equal = 0

    def launch(self, plan):
        expected = self.written_anew(plan)
        draws = super().launch(plan)
        if expected is not None:
            shape, buffer = expected
            places = places_of(shape, self._table.win_size)
            actual = self._inputs._hosts[self._inputs._turn][: len(buffer)].clone()
            # What is drawn last comes from the device.
            sources = buffer[places.draws].view(3, -1)[0]
            for each in (actual, buffer):
                each[places.window].view(shape.num_draws, -1)[sources >= 0, -1] = 0
            # An engine survives whatever is raised here.
            parts = [slice(1), *places, slice(places.table, None)]
            self.num_equal += all(torch.equal(actual[part], buffer[part]) for part in parts)
            self.num_checked += 1
        return draws

    def written_anew(self, plan):
        ahead, parts = self._parts(plan)
        if len(parts) > 1:
            return None
        [part], table = parts, self._table
        shape = self._shape_of(ahead, part)
        anew = SequenceTable(most_pages=table.most_pages, win_size=table.win_size, zero_page=table.zero_page)
        chunks = [*plan._replace(chunks=[]).as_chunks(), *part]
        lines = anew.look_up(tuple(chunk.sequence for chunk in chunks))
        for line, chunk in zip(lines, chunks, strict=True):
            if chunk.is_ahead:
                anew.drawn_at[line] = table.drawn_at[table._lines[chunk.sequence]]
        inputs = StepInputs([shape], anew, self._drawn, block_tokens=self.block_tokens, dump_slot=self.dump_slot)
        inputs.fill(chunks, shape, (self._half ^ 1) * self._most_running)
        [held] = [host for host in inputs._hosts if host[0]]
        length = places_of(shape, table.win_size).table + shape.num_draws * int(held[0])
        return shape, held[:length].clone()


def checked(lm, most_rows=64, **settings):
    engine = make_engine(lm, **settings)
    runner = engine._runner
    CheckedSteps.block_tokens, CheckedSteps.dump_slot = runner.cache.block_tokens, runner.cache.dump_slot
    runner._padded = CheckedSteps(runner, most_rows)
    return engine, runner._padded


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"block_tokens": 4, "max_total_tokens": 400, "max_request_tokens": 200},
        {"prefill_budget_tokens": 16},
        {"most_rows": 3},
    ],
    ids=["plain", "few pages", "mixed", "parts"],
)
def test_every_step_of_a_crowd_is_told_what_it_would_be_told_anew(lm, settings):
    engine, padded = checked(lm, **settings)
    crowd(lm, engine)
    assert padded.num_equal == padded.num_checked > 20
    assert padded.num_together > 30


def test_ids_that_are_blocked_at_first_are_free_later_and_pages_widen(lm):
    engine, padded = checked(lm, block_tokens=4)
    sinks = [RecordingSink() for _ in range(3)]
    for seed, sink in enumerate(sinks):
        engine.submit(prompt_of(lm, [seed + 1] * (4 + 3 * seed)), sink, seed=seed)
    edges, widths = set(), set()
    fill = padded._inputs.fill

    def noted(chunks, shape, first_target, *ahead):
        count = fill(chunks, shape, first_target, *ahead)
        host = padded._inputs._hosts[padded._inputs._turn]
        edges.update(host[places_of(shape, padded._table.win_size).blocked].tolist())
        widths.add(int(host[0]))
        return count

    padded._inputs.fill = noted
    run_dry(engine)
    assert padded.num_equal == padded.num_checked > 50
    assert edges == {0, lm.ids.first_stop, lm.ids.last_stop + 1}
    assert len(widths) > 5
    assert all(len(sink.codes) >= 8 for sink in sinks)
