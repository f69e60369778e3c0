"""`light-tts doctor --plan`: a table on any machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from light_tts.cli import main


def table(capsys, *words):
    assert main(["doctor", "--plan", *words]) == 0
    return capsys.readouterr().out


def row(text, name):
    return next(line for line in text.splitlines() if line.startswith(name)).removeprefix(name).split()


def test_four_sizes_of_gpu_and_a_published_model(capsys):
    shown = table(capsys, "--family", "cosyvoice2")
    assert shown.startswith("CosyVoice2-0.5B; language model bfloat16")
    assert row(shown, "part") == ["8", "GB", "12", "GB", "16", "GB", "24", "GB"]
    tokens = [int(cell) for cell in row(shown, "tokens in the KV cache")]
    assert tokens == sorted(tokens)
    assert tokens[-1] == 65536
    assert row(shown, "all of it") == ["7373", "11059", "14746", "22118"]


@pytest.mark.parametrize("family", ["cosyvoice2", "cosyvoice3"])
def test_the_documentation_shows_what_is_printed(capsys, family):
    page = (Path(__file__).parents[1] / "docs" / "memory.md").read_text("utf-8")
    assert table(capsys, "--family", family).strip() in page


def test_the_settings_count(capsys):
    shown = table(capsys, "--gpu-memory-gb", "6", "--gpu-memory-utilization", "0.5", "--kv-cache-dtype", "int8")
    assert shown.startswith("builtin;")
    assert row(shown, "all of it") == ["3072"]


def test_a_gpu_that_is_too_small_gets_the_reason(capsys):
    shown = table(capsys, "--family", "cosyvoice3", "--gpu-memory-gb", "2", "24")
    assert row(shown, "KV cache")[0] == "-"
    assert "2 GB: the weights and the least of everything else take" in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--plan", "--gpu-memory-gb", "none"], "'none' is no size of a GPU"),
        (["--family", "cosyvoice2"], "--family says what to plan for; give --plan as well"),
        (["--plan", "--gpu-memory-utilization", "0.05"], "use a number from 0.1 to 0.9"),
    ],
)
def test_mistakes_are_told_in_a_sentence(capsys, words, says):
    try:
        status = main(["doctor", *words])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert says in capsys.readouterr().err
