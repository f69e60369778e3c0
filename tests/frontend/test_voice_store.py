"""Named voices: kept over restarts, guarded names, damaged files left alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from light_tts.errors import BadAudio, CheckpointError, ConfigError, InvalidRequest, UnknownVoice
from light_tts.frontend.registry import load_prompts, load_registry
from light_tts.frontend.voice_store import VoiceStore
from light_tts.types import Voice


def a_voice(name: str = "sha256:0", seed: int = 0, language: str | None = None) -> Voice:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 6561, (20,), generator=generator)
    mel = torch.randn(40, 80, generator=generator)
    return Voice(name, torch.randn(192, generator=generator), tokens, mel, language=language)


BUILTIN = {"en_one": a_voice("en_one", 1, "en"), "zh_one": a_voice("zh_one", 2, "zh")}


def extract(data: bytes) -> Voice:
    if not data:
        raise BadAudio("empty")
    return a_voice(seed=data[0])


def open_store(directory: Path, revision: str = "r1") -> VoiceStore:
    return VoiceStore(directory, BUILTIN, extract, revision)


def test_an_added_voice_survives_a_restart(tmp_path: Path):
    added = open_store(tmp_path / "new").add("小王", b"a", "你好", "zh")
    again = open_store(tmp_path / "new")
    voice = again.get("小王")
    assert again.names() == ["en_one", "zh_one", "小王"]
    assert (voice.id, voice.prompt_text, voice.language) == ("小王", "你好", "zh")
    for name in ("speaker", "tokens", "mel"):
        assert torch.equal(getattr(voice, name), getattr(added, name))
    assert not [path for path in (tmp_path / "new").iterdir() if path.name.startswith(".")]


def test_adding_again_replaces_and_other_processes_see_it(tmp_path: Path):
    store, other = open_store(tmp_path), open_store(tmp_path)
    store.add("me", b"a")
    assert torch.equal(other.get("me").mel, extract(b"a").mel)
    store.add("me", b"b")
    other.names()
    assert torch.equal(other.get("me").mel, extract(b"b").mel)
    other.remove("me")
    assert "me" not in store.names()
    with pytest.raises(UnknownVoice):
        store.get("me")
    assert list(tmp_path.iterdir()) == []


def test_consent_is_kept_beside_the_voice_and_its_date_is_known(tmp_path: Path):
    before_s = time.time()
    open_store(tmp_path).add("me", b"a", consent="yes, on tape")
    assert json.loads((tmp_path / "me.json").read_text())["consent"] == "yes, on tape"
    store = open_store(tmp_path)
    assert store.added_at_s("me") == pytest.approx(before_s, abs=60)
    assert store.added_at_s("en_one") is store.added_at_s("nobody") is None


def test_unknown_voices_are_answered_with_the_list(tmp_path: Path):
    store = open_store(tmp_path)
    with pytest.raises(UnknownVoice, match="en_one, zh_one"):
        store.get("nobody")
    with pytest.raises(UnknownVoice):
        store.remove("nobody")


def test_builtin_voices_stay(tmp_path: Path):
    store = open_store(tmp_path)
    with pytest.raises(InvalidRequest, match="belongs to the model"):
        store.remove("en_one")
    with pytest.raises(InvalidRequest, match="belongs to the model"):
        store.add("en_one", b"a")


@pytest.mark.parametrize(
    "name", ["", ".hidden", "../up", "a/b", "a b", "a\x00", "-x", "x" * 65, "王" * 64 + "!", "a\n"]
)
def test_names_that_are_no_file_names_are_refused(tmp_path: Path, name: str):
    with pytest.raises(InvalidRequest, match="cannot name a voice"):
        open_store(tmp_path).add(name, b"a")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_language_is_refused(tmp_path: Path):
    with pytest.raises(InvalidRequest, match="Languages"):
        open_store(tmp_path).add("me", b"a", None, "klingon")


def test_a_bad_recording_adds_nothing(tmp_path: Path):
    store = open_store(tmp_path)
    with pytest.raises(BadAudio):
        store.add("me", b"")
    assert store.names() == list(BUILTIN)


@pytest.mark.parametrize("damage", ["json", "tensors", "half", "values", "orphan"])
def test_damaged_files_are_skipped_and_never_replaced(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture):
    open_store(tmp_path).add("me", b"a")
    described, tensors = tmp_path / "me.json", tmp_path / "me.safetensors"
    if damage == "json":
        described.write_text("{")
    elif damage == "tensors":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    elif damage == "half":
        tensors.unlink()
    elif damage == "values":
        described.write_text(json.dumps({**json.loads(described.read_text()), "prompt_text_ids": "words"}))
    else:
        described.unlink()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    store = open_store(tmp_path)
    assert store.names() == list(BUILTIN)
    assert "skipped voice 'me'" in caplog.text
    with pytest.raises(InvalidRequest, match="cannot be used"):
        store.add("me", b"b")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_voices_of_another_model_are_not_offered(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    open_store(tmp_path, "r1").add("me", b"a")
    assert open_store(tmp_path, "r2").names() == list(BUILTIN)
    assert "another model" in caplog.text


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="voices_dir"):
        open_store(tmp_path / "file").add("me", b"a")


@pytest.mark.parametrize(
    ("text", "language", "name"),
    [
        ("Hello", "auto", "en_one"),
        ("您好", "auto", "zh_one"),
        ("こんにちは", "auto", "en_one"),
        ("Hello", "zh", "zh_one"),
        ("Hello", "yue", "zh_one"),
        ("", "auto", "en_one"),
    ],
)
def test_the_default_voice_speaks_the_texts_language(tmp_path: Path, text: str, language: str, name: str):
    assert open_store(tmp_path).default_for(text, language) == name


def test_a_model_without_voices_says_so(tmp_path: Path):
    with pytest.raises(UnknownVoice, match="no voices of its own"):
        VoiceStore(tmp_path, {}, extract).default_for("Hello")


def test_registry_entries_of_both_kinds_serve_everything(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    vector = torch.randn(1, 192)
    prompt = {
        "prompt_text": torch.tensor([[5, 6, 7]], dtype=torch.int32),
        "flow_prompt_speech_token": torch.arange(11, dtype=torch.int32)[None],
        "prompt_speech_feat": torch.zeros(1, 21, 80),
        "flow_embedding": vector,
    }
    entries = {
        "en_both": {**prompt, "embedding": vector},
        "vector": {"embedding": vector},
        "": {"embedding": vector},
        "foreign": {"speech_token": torch.zeros(3)},
        "short": {"embedding": torch.zeros(1, 100)},
        "nan": {"embedding": torch.full((1, 192), float("nan"))},
        "odd": 3,
        "half": {key: prompt[key] for key in ("flow_prompt_speech_token", "flow_embedding")},
    }
    torch.save(entries, tmp_path / "spk2info.pt")
    voices = load_registry(tmp_path / "spk2info.pt", {"vector": {"language": "zh"}})
    assert list(voices) == ["en_both", "vector"]
    assert voices["en_both"].has_transcript
    assert voices["en_both"].prompt_text_ids == (5, 6, 7)
    assert (voices["en_both"].tokens.shape[0], voices["en_both"].mel.shape[0]) == (10, 20)
    assert (voices["en_both"].language, voices["vector"].language) == ("en", "zh")
    assert not voices["vector"].has_prompt
    assert caplog.text.count("skipped voice") == 6


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/light-tts-evil"),))


@pytest.mark.parametrize("content", [b"", b"junk", Evil(), [1, 2]])
def test_a_file_that_is_no_registry_is_refused_without_running_it(tmp_path: Path, content: object):
    path = tmp_path / "spk2info.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"spk2info\.pt"):
        load_registry(path)
    assert not Path("/tmp/light-tts-evil").exists()


def test_prompt_lists_are_optional(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert load_prompts(tmp_path / "prompts.json") == {}
    (tmp_path / "prompts.json").write_text("[")
    assert load_prompts(tmp_path / "prompts.json") == {}
    assert "prompts.json" in caplog.text
