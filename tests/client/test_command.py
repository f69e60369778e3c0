"""`python -m light_tts.client` in the words of CosyVoice's client."""

import wave

import pytest

from light_tts.client.command import main
from tests.server.fake_engine import recording


@pytest.fixture
def ask(base_url, tmp_path):
    def ask(*words):
        target = tmp_path / "demo.wav"
        code = main(["--port", base_url.rsplit(":", 1)[1], "--tts_wav", str(target), "--tts_text", "Hello.", *words])
        return code, target

    return ask


@pytest.fixture
def prompt(tmp_path):
    path = tmp_path / "prompt.wav"
    path.write_bytes(recording())
    return str(path)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("sft", ["--spk_id", "en_male"]),
        ("zero_shot", ["--prompt_text", "words", "--prompt_wav", "PROMPT"]),
        ("cross_lingual", ["--prompt-wav", "PROMPT"]),
        ("instruct", ["--spk_id", "en_male", "--instruct_text", "calmly"]),
        ("instruct2", ["--prompt_wav", "PROMPT", "--instruct_text", "calmly"]),
    ],
)
def test_every_mode_writes_a_wav(ask, prompt, engine, mode, words, capsys):
    code, target = ask("--mode", mode, *(prompt if word == "PROMPT" else word for word in words))
    assert code == 0
    with wave.open(str(target)) as file:
        assert (file.getframerate(), file.getnframes()) == (24_000, 24_000)
    assert "1.00 s of audio" in capsys.readouterr().out
    assert engine.requests[0].stream


def test_short_texts_share_one_connection(ask, capsys):
    code, target = ask("--short", "--num", "3", "--spk_id", "en_male")
    assert code == 0
    assert target.read_bytes().startswith(b"RIFF")
    assert "3 requests over 1 connections" in capsys.readouterr().out


def test_a_refusal_is_one_line_and_status_1(ask, capsys):
    code, target = ask("--mode", "sft", "--spk_id", "bob")
    assert (code, target.exists()) == (1, False)
    assert "bob" in capsys.readouterr().err


def test_a_missing_recording_is_one_line_and_status_1(ask, capsys):
    code, _ = ask("--mode", "cross_lingual", "--prompt_wav", "nowhere.wav")
    assert code == 1
    assert "nowhere.wav" in capsys.readouterr().err
