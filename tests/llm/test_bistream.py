"""The bi-stream layout against the trained layout, for texts and arrivals of every kind."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from light_tts.llm.bistream import MIN_LENGTH_CAP, BiStreamLayout
from light_tts.models.speech_ids import SpeechIds
from light_tts.types import FinishReason

S = 243
IDS = SpeechIds(
    num_codes=S,
    head_size=S + 200,
    eos=S + 1,
    fill=S + 3,
    first_stop=S,
    last_stop=S + 199,
    sos_row=320 + S,
    task_row=320 + S + 2,
    speech_row0=320,
    end_of_prompt=315,
    needs_end_of_prompt=True,
)
TAG = 315
text = st.lists(st.integers(0, 300), min_size=1, max_size=40)
speech = st.lists(st.integers(0, S - 1), max_size=50)
# What the model answers, in the text phase and after: codes, now and then a `fill`.
answers = st.lists(st.one_of(st.integers(0, S - 1), st.just(IDS.fill)), min_size=1, max_size=30)


def layout_of(prompt_text=(), prompt_speech=(), max_rows=10_000):
    return BiStreamLayout((TAG, *prompt_text), tuple(prompt_speech), IDS, mix_ratio=(5, 15), max_rows=max_rows)


def answer_all(layout, script, samples):
    """Answer every wanted sample; the answers depend on the step alone."""
    while layout.wants_sample:
        token = script[len(layout.history) % len(script)]
        if layout._is_final:
            token = token if token < S and len(layout.history) % 17 else IDS.eos
        blocked = {t for start, stop in layout.blocked for t in range(start, stop)}
        assert token not in blocked
        samples.append((len(layout.rows), layout.accept(token)))


def play(prompt_text, prompt_speech, pieces, script, *, eager):
    layout = layout_of(prompt_text, prompt_speech)
    samples = []
    for piece in pieces:
        layout.append(piece)
        if eager:
            answer_all(layout, script, samples)
    layout.finish()
    answer_all(layout, script, samples)
    return layout, samples


@settings(max_examples=150, deadline=None)
@given(text, speech, text, answers, st.data())
def test_the_result_does_not_depend_on_when_the_text_arrived(prompt_text, prompt_speech, body, script, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=5)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    whole, samples = play(prompt_text, prompt_speech, [body], script, eager=False)
    piecewise, other = play(prompt_text, prompt_speech, [p for p in pieces if p], script, eager=True)
    assert whole.rows == piecewise.rows
    assert whole.history == piecewise.history
    assert samples == other
    assert whole.finish_reason is piecewise.finish_reason is not None


@settings(max_examples=150, deadline=None)
@given(text, speech, text, answers)
@example([0] * 31, [], [0] * 5, [0])
def test_every_id_is_fed_once_and_in_the_order_of_the_trained_layout(prompt_text, prompt_speech, body, script):
    layout, samples = play(prompt_text, prompt_speech, [body], script, eager=False)
    rows = layout.rows
    assert rows[:2] == [IDS.sos_row, TAG]
    fed_text = [row for row in rows[2:] if row < 320]
    fed_speech = [row - 320 for row in rows if 320 <= row < 320 + S]
    emitted = [code for _, code in samples if code is not None]
    if layout.finish_reason is FinishReason.LENGTH:
        # A short text after a long transcript may reach its limit of codes before all of it was fed.
        assert fed_text == (prompt_text + body)[: len(fed_text)]
        assert len(emitted) == max(100, 20 * len(body))
        return
    assert fed_text == prompt_text + body
    assert fed_speech == prompt_speech + emitted
    assert rows.count(IDS.task_row) == 1
    before_task = rows[2 : rows.index(IDS.task_row)]
    blocks = "".join("t" if row < 320 else "s" for row in before_task)
    # Blocks of five text ids; never more than fifteen codes after one; the last piece of text has fewer than five.
    while blocks.startswith("ttttt"):
        blocks = blocks[5:]
        num_codes = len(blocks) - len(blocks.lstrip("s"))
        assert num_codes <= 15
        blocks = blocks[num_codes:]
    assert set(blocks) <= {"t"}
    assert len(blocks) < 5


def test_nothing_is_decoded_before_the_first_text_id():
    layout = layout_of(range(10), range(20))
    assert not layout.wants_sample
    layout.append([7])
    assert layout.wants_sample


def test_a_full_block_counts_as_a_fill_in_the_history_without_a_sample():
    layout = layout_of()
    layout.append(range(5))
    for _ in range(15):
        assert layout.wants_sample
        layout.accept(9)
    assert not layout.wants_sample
    assert layout.history == [9] * 15 + [IDS.fill]


def test_control_ids_are_blocked_but_the_one_that_belongs_to_the_phase():
    layout = layout_of()
    layout.append(range(5))
    allowed = set(range(IDS.head_size)) - {t for start, stop in layout.blocked for t in range(start, stop)}
    assert allowed == {*range(S), IDS.fill}
    layout.accept(IDS.fill)
    layout.finish()
    allowed = set(range(IDS.head_size)) - {t for start, stop in layout.blocked for t in range(start, stop)}
    assert allowed == {*range(S), IDS.eos}
    assert layout.accept(IDS.eos) is None
    assert layout.finish_reason is FinishReason.STOP


def test_the_final_phase_is_bounded():
    """The reference decodes for ever when the model never says eos."""
    for num_ids, most in ((1, MIN_LENGTH_CAP), (4, MIN_LENGTH_CAP)):
        layout = layout_of()
        layout.append(range(num_ids))
        layout.finish()
        emitted = 0
        while layout.wants_sample:
            emitted += layout.accept(1) is not None
        assert emitted == most
        assert layout.finish_reason is FinishReason.LENGTH


def test_the_bound_grows_with_the_text():
    layout = layout_of()
    layout.append(range(12))
    layout.finish()
    emitted = 0
    while layout.wants_sample:
        emitted += layout.accept(1) is not None
    assert emitted == 240


def test_rows_never_exceed_the_limit_of_a_sequence():
    layout = layout_of(range(5), range(15), max_rows=60)
    layout.append(range(30))
    layout.finish()
    while layout.wants_sample:
        layout.accept(1)
    assert layout.finish_reason is FinishReason.LENGTH
    assert len(layout.rows) <= 60 + 5


def test_a_run_without_text_ends_without_speech():
    layout = layout_of(range(10), range(20))
    layout.finish()
    assert layout.finish_reason is FinishReason.LENGTH
    assert not layout.wants_sample


def test_text_after_the_end_of_the_text_is_ignored():
    layout = layout_of()
    layout.append([1])
    layout.finish()
    rows = list(layout.rows)
    layout.append([2, 3])
    assert layout.rows == rows


@given(text, speech, text)
def test_the_shareable_beginning_holds_nothing_of_the_text(prompt_text, prompt_speech, body):
    """Two runs of a voice agree on it whatever they say; it reaches as far as whole prompt blocks do."""
    left, right = layout_of(prompt_text, prompt_speech), layout_of(prompt_text, prompt_speech)
    left.append(body)
    right.append([x + 1 for x in body])
    left.finish()
    right.finish()
    assert left.num_shareable == right.num_shareable
    shared = left.num_shareable
    assert left.rows[:shared] == right.rows[:shared]
    num_blocks = min(len(prompt_text) // 5, -(-len(prompt_speech) // 15))
    assert shared >= 2 + 5 * num_blocks + min(15 * num_blocks, len(prompt_speech))
