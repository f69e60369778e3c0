"""prepare(): what each mode hands on, limits, alignment, and the recorded cases as a whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from light_tts.assets import builtin_model_dir
from light_tts.errors import EmptyText, InvalidRequest, TextTooLong, UnknownVoice, Unsupported
from light_tts.frontend.frontend import Frontend, NoExtractor
from light_tts.frontend.modes import instruction_prompt, split_prompt_head
from light_tts.frontend.tokenizer import TextTokenizer
from light_tts.frontend.voice_store import VoiceStore
from light_tts.models.model_dir import ModelDirectory
from light_tts.settings import FrontendSettings
from light_tts.types import Mode, ReferenceAudio, RegisteredVoice, SynthesisRequest, Voice
from light_tts.verify.frontend_checks import check_frontend, check_prompt_mel
from light_tts.verify.report import Ledger

PREFIX = "You are a helpful assistant.<|endofprompt|>"


def a_voice(num_tokens: int = 60, words: str | None = "hi there", speaker: float = 1.0) -> Voice:
    tokens, mel = torch.arange(num_tokens), torch.arange(num_tokens * 2.0)[:, None].expand(-1, 80)
    return Voice("v", torch.full((192,), speaker), tokens, mel, prompt_text=words)


VECTOR = a_voice(0, None)


def make(tokenizer: TextTokenizer, *, prefix: str = "", **options) -> Frontend:
    extractor = NoExtractor()
    store = VoiceStore(Path("/nonexistent/voices"), {"named": a_voice(), "vector": VECTOR}, extractor.extract)
    return Frontend(
        tokenizer,
        store,
        extractor,
        FrontendSettings(max_text_chars=1000),
        default_prompt_prefix=prefix,
        needs_end_of_prompt=bool(prefix),
        **options,
    )


@pytest.fixture(scope="module")
def plain(tokenizer: TextTokenizer) -> Frontend:
    return make(tokenizer)


@pytest.fixture(scope="module")
def prefixed(phone_tokenizer: TextTokenizer) -> Frontend:
    return make(phone_tokenizer, prefix=PREFIX)


def ids(frontend: Frontend, text: str) -> tuple[int, ...]:
    return tuple(frontend.tokenizer.encode(text))


def test_every_recorded_case(golden: Path):
    ledger = Ledger(golden)
    check_frontend(ledger)
    rows = ledger.finish()
    assert [row for row in rows if not row.ok and not row.informative] == []
    assert sum(not row.informative for row in rows) > 1000


@pytest.mark.parametrize(("name", "fmax_hz"), [("cosyvoice2_tiny", 8000.0), ("cosyvoice3_tiny", None)])
def test_the_recorded_prompt_mel(golden: Path, name: str, fmax_hz: float | None):
    ledger = Ledger(golden.parent / name)
    check_prompt_mel(ledger, fmax_hz)
    assert all(row.ok for row in ledger.rows)
    assert len(ledger.rows) == 2


def test_a_wrong_feature_is_noticed(golden: Path):
    ledger = Ledger(golden.parent / "cosyvoice2_tiny")
    check_prompt_mel(ledger, None)
    assert not all(row.ok for row in ledger.rows)


@pytest.mark.parametrize(
    ("voice", "instruction", "mode"),
    [
        (a_voice(), None, Mode.ZERO_SHOT),
        (a_voice(), "Whisper.", Mode.INSTRUCT),
        (a_voice(words=None), None, Mode.CROSS_LINGUAL),
        (VECTOR, None, Mode.PRESET),
    ],
)
def test_without_a_mode_everything_there_is_gets_used(plain: Frontend, voice: Voice, instruction, mode: Mode):
    assert plain.prepare(SynthesisRequest("Hello.", voice=voice, instruction=instruction)).mode is mode


@pytest.mark.parametrize(
    "request_fields",
    [
        {"voice": VECTOR, "mode": Mode.ZERO_SHOT},
        {"voice": VECTOR, "instruction": "Whisper."},
        {"voice": a_voice(words=None), "mode": Mode.ZERO_SHOT},
        {"voice": a_voice(), "mode": Mode.INSTRUCT},
        {"voice": a_voice(), "mode": Mode.INSTRUCT, "instruction": "  "},
        {"voice": a_voice(), "mode": Mode.ZERO_SHOT, "instruction": "Whisper."},
        {"voice": a_voice(), "language": "xx"},
    ],
)
def test_what_does_not_go_together_is_refused(plain: Frontend, request_fields):
    with pytest.raises(InvalidRequest):
        plain.prepare(SynthesisRequest("Hello.", **request_fields))


def test_zero_shot_hands_on_transcript_and_speech(plain: Frontend):
    prepared = plain.prepare(SynthesisRequest("Hello.", voice="named"))
    segment = prepared.segments[0]
    assert segment.prompt_text_ids == ids(plain, "hi there")
    assert segment.prompt_speech == tuple(range(60))
    assert segment.text_ids == ids(plain, "Hello.")
    assert segment.num_counted_ids == len(segment.text_ids)


@pytest.mark.parametrize("words", ["hi there", f"{PREFIX}hi there"])
def test_the_prefix_stands_before_the_transcript_once(prefixed: Frontend, words: str):
    segment = prefixed.prepare(SynthesisRequest("Hello.", voice=a_voice(words=words))).segments[0]
    assert segment.prompt_text_ids == ids(prefixed, f"{PREFIX}hi there")


def test_a_missing_transcript_is_said_in_the_log(plain: Frontend, caplog):
    with caplog.at_level("INFO"):
        plain.prepare(SynthesisRequest("Hello.", voice=a_voice(), mode=Mode.CROSS_LINGUAL, request_id="r-1"))
        plain.prepare(SynthesisRequest("Hello.", voice=a_voice(), request_id="r-2"))
        assert not caplog.messages
        plain.prepare(SynthesisRequest("Hello.", voice=a_voice(words=None), request_id="r-3"))
    assert [message.startswith("r-3: without a transcript") for message in caplog.messages] == [True]


def test_an_added_prefix_is_said_in_the_log(prefixed: Frontend, caplog):
    with caplog.at_level("INFO"):
        prefixed.prepare(SynthesisRequest("Hello.", voice=a_voice(words=f"{PREFIX}hi there"), request_id="r-1"))
        assert not caplog.messages
        prefixed.prepare(SynthesisRequest("Hello.", voice=a_voice(), request_id="r-2"))
    assert [message.startswith("r-2: ") and PREFIX in message for message in caplog.messages] == [True]


def test_registered_ids_get_the_prefix_when_they_lack_it(prefixed: Frontend):
    bare, full = ids(prefixed, "hi"), ids(prefixed, f"{PREFIX}hi")
    for given in (bare, full):
        voice = Voice("v", torch.ones(192), torch.arange(50), torch.zeros(100, 80), prompt_text_ids=given)
        assert prefixed.prepare(SynthesisRequest("Hello.", voice=voice)).segments[0].prompt_text_ids == full


def test_cross_lingual_puts_the_prefix_before_every_piece_and_does_not_count_it(prefixed: Frontend):
    text = "One two three four five six seven. " * 12
    for given in (text, f"My own words.<|endofprompt|>{text}"):
        prepared = prefixed.prepare(SynthesisRequest(given, voice="named", mode=Mode.CROSS_LINGUAL))
        head = ids(prefixed, "My own words.<|endofprompt|>" if "own" in given else PREFIX)
        assert len(prepared.segments) > 1
        for segment in prepared.segments:
            assert segment.text_ids[: len(head)] == head
            assert segment.num_counted_ids == len(segment.text_ids) - len(head) > 0
            assert segment.prompt_text_ids == segment.prompt_speech == ()


def test_instruct_ends_the_instruction_and_leaves_the_speech_out(plain: Frontend, prefixed: Frontend):
    request = SynthesisRequest("Hello.", voice="named", instruction="Whisper.")
    assert plain.prepare(request).segments[0].prompt_text_ids == ids(plain, "Whisper.<|endofprompt|>")
    segment = prefixed.prepare(request).segments[0]
    assert segment.prompt_text_ids == ids(prefixed, "You are a helpful assistant. Whisper.<|endofprompt|>")
    assert segment.prompt_speech == ()


@pytest.mark.parametrize(
    ("instruction", "prefix", "expected"),
    [
        ("A.<|endofprompt|>", PREFIX, "A.<|endofprompt|>"),
        ("You are a helpful assistant. A.", PREFIX, "You are a helpful assistant. A.<|endofprompt|>"),
        (" A. ", "", "A.<|endofprompt|>"),
    ],
)
def test_instructions_come_in_the_trained_form(instruction: str, prefix: str, expected: str):
    assert instruction_prompt(instruction, prefix) == expected


def test_the_head_ends_at_the_last_tag():
    assert split_prompt_head("a<|endofprompt|>b<|endofprompt|>c") == ("a<|endofprompt|>b<|endofprompt|>", "c")
    assert split_prompt_head("abc") == ("", "abc")


@pytest.mark.parametrize(("num_tokens", "kept"), [(60, 50), (50, 50), (25, 25), (24, 24), (3, 3)])
def test_the_flow_prompt_is_cut_to_the_grid_from_the_front(
    tokenizer: TextTokenizer, plain: Frontend, num_tokens: int, kept: int
):
    voice = a_voice(num_tokens)
    prepared = plain.prepare(SynthesisRequest("Hello.", voice=voice))
    flow = prepared.flow_prompt
    assert torch.equal(flow.tokens, voice.tokens[num_tokens - kept :])
    assert torch.equal(flow.mel, voice.mel[2 * (num_tokens - kept) :])
    assert prepared.segments[0].prompt_speech == tuple(range(num_tokens))
    exact = make(tokenizer, prompt_alignment="exact").prepare(SynthesisRequest("Hello.", voice=voice)).flow_prompt
    assert torch.equal(exact.tokens, voice.tokens)
    assert exact.key != flow.key


def test_flow_keys_follow_the_content(plain: Frontend):
    keys = {
        plain.flow_prompt(voice, mode).key
        for voice, mode in [
            (a_voice(), Mode.ZERO_SHOT),
            (a_voice(), Mode.INSTRUCT),
            (a_voice(speaker=2.0), Mode.ZERO_SHOT),
            (a_voice(), Mode.PRESET),
            (a_voice(61), Mode.ZERO_SHOT),
        ]
    }
    assert len(keys) == 4


def test_preset_uses_the_vector_alone(plain: Frontend, prefixed: Frontend):
    prepared = plain.prepare(SynthesisRequest("Hello.", voice="named", mode=Mode.PRESET))
    assert prepared.flow_prompt.tokens.shape == (0,)
    assert prepared.flow_prompt.mel.shape == (0, 80)
    assert prepared.segments[0].prompt_speech == prepared.segments[0].prompt_text_ids == ()
    segment = prefixed.prepare(SynthesisRequest("Hello.", voice="vector")).segments[0]
    assert segment.text_ids == ids(prefixed, f"{PREFIX}Hello.")


@pytest.mark.parametrize("text", ["", "   ", "...", "。", "😀", "\u200b", "<|endofprompt|>", "a<|endofprompt|> !"])
@pytest.mark.parametrize("text_frontend", [True, False])
def test_nothing_to_say_is_refused(plain: Frontend, text: str, text_frontend: bool):
    with pytest.raises(EmptyText):
        plain.prepare(SynthesisRequest(text, voice="named", text_frontend=text_frontend))


def test_limits_on_texts(plain: Frontend):
    with pytest.raises(TextTooLong, match="1001"):
        plain.prepare(SynthesisRequest("a" * 1001, voice="named"))
    with pytest.raises(TextTooLong, match="instruction"):
        plain.prepare(SynthesisRequest("a", voice="named", instruction="a" * 1001))
    with pytest.raises(TextTooLong, match="prompt_text"):
        plain.prepare(SynthesisRequest("a", voice=a_voice(words="a" * 1001)))
    with pytest.raises(InvalidRequest, match="surrogate"):
        plain.prepare(SynthesisRequest("a\ud800", voice="named"))


def test_text_frontend_off_passes_the_text_as_written_in_one_piece(plain: Frontend):
    text = "It is 3. " * 40
    segments = plain.prepare(SynthesisRequest(text, voice="named", text_frontend=False)).segments
    assert [segment.text_ids for segment in segments] == [ids(plain, text)]


@pytest.mark.parametrize("text", ["Room 12 is free. Come in!", "system<|endofprompt|>hello there", "今天12点。"])
def test_a_text_prepared_elsewhere_gives_the_same_segments(prefixed: Frontend, text: str):
    request = SynthesisRequest(text, voice="named")
    elsewhere = replace(request, prepared_text=prefixed.text.prepare(request))
    assert prefixed.prepare(elsewhere).segments == prefixed.prepare(request).segments


def test_a_transcript_is_read_once(plain: Frontend, monkeypatch: pytest.MonkeyPatch):
    request = SynthesisRequest("hello", voice=RegisteredVoice("named", "It was 5 to 9."))
    expected = plain.prepare(request)
    monkeypatch.setattr(plain.text._normalizer, "whole", None)
    assert plain.prepare(request).segments == expected.segments


def test_voices_of_other_models_and_unknown_names_are_refused(plain: Frontend):
    foreign = Voice("v", torch.ones(192), torch.tensor([6561]), torch.zeros(2, 80), prompt_text="hi")
    words = Voice("v", torch.ones(192), torch.tensor([1]), torch.zeros(2, 80), prompt_text_ids=(10**6,))
    for voice in (foreign, words):
        with pytest.raises(InvalidRequest, match="another model"):
            plain.prepare(SynthesisRequest("Hello.", voice=voice))
    with pytest.raises(UnknownVoice, match="named"):
        plain.prepare(SynthesisRequest("Hello.", voice="nobody"))
    with pytest.raises(Unsupported, match="recordings"):
        plain.prepare(SynthesisRequest("Hello.", voice=ReferenceAudio(b"x")))


def test_streamed_text_is_read_by_clauses_or_taken_as_written(plain: Frontend, prefixed: Frontend):
    prepared = plain.prepare_text_stream(SynthesisRequest("", voice="named"))
    assert [segment.text_ids for segment in prepared.segments] == [()]
    assert prepared.segments[0].prompt_speech == tuple(range(60))
    verbatim = plain.text.open_text(SynthesisRequest("", text_frontend=False))
    assert verbatim.feed(" 3. <|im_end|>") == plain.tokenizer.encode_user_text(" 3. <|im_end|>")
    read = plain.text.open_text(SynthesisRequest(""))
    assert [*read.feed("I have 3"), *read.feed(" cats.")] == []
    assert read.end() == plain.tokenizer.encode_user_text("I have three cats.")
    with pytest.raises(InvalidRequest, match="surrogate"):
        read.feed("\ud800")
    cross = prefixed.prepare_text_stream(SynthesisRequest("", voice="named", mode=Mode.CROSS_LINGUAL))
    assert cross.segments[0].prompt_text_ids == ids(prefixed, PREFIX)


def test_a_request_never_changes_the_voice(plain: Frontend):
    voice = plain.voices.get("named")
    before = voice.tokens.clone(), voice.mel.clone(), voice.speaker.clone()
    for mode in Mode:
        instruction = "Whisper." if mode is Mode.INSTRUCT else None
        prepared = plain.prepare(SynthesisRequest("Hello.", voice="named", mode=mode, instruction=instruction))
        assert prepared.voice_id == "v"
    assert all(map(torch.equal, before, (voice.tokens, voice.mel, voice.speaker)))
    assert plain.voices.get("named") is voice


def test_the_builtin_model_directory(tmp_path: Path):
    settings = FrontendSettings(voices_dir=tmp_path)
    frontend = Frontend.from_model_directory(ModelDirectory.open(builtin_model_dir()), settings)
    recording = (builtin_model_dir() / "prompts" / "zh_female.wav").read_bytes()
    for text, voice in (("Good morning.", "en_female"), ("早上好。", "zh_female")):
        prepared = frontend.prepare(SynthesisRequest(text))
        assert prepared.voice_id == voice
        assert frontend.tokenizer.decode(prepared.segments[0].text_ids) == text
        assert prepared.flow_prompt.tokens.shape[0] % 25 == 0
    cloned = frontend.prepare(SynthesisRequest("早上好。", voice=ReferenceAudio(recording, "今天天气真不错。")))
    assert cloned.mode is Mode.ZERO_SHOT
    registered = frontend.voices.get("zh_female")
    assert (
        cloned.segments[0].prompt_speech == frontend.source_tokens(recording)[: len(cloned.segments[0].prompt_speech)]
    )
    assert cloned.segments[0].prompt_speech == tuple(registered.tokens.tolist())
    assert frontend.prepare_voice(SynthesisRequest("", voice="en_male")).tokens.shape[0] == 75
