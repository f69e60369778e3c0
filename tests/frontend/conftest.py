"""The tiny tokenizer and golden files of the front end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from light_tts.frontend.tokenizer import TextTokenizer

GOLDEN = Path(__file__).parent.parent / "golden" / "frontend"


def tiny_tokenizer(generation: str) -> TextTokenizer:
    ids = json.loads((GOLDEN / "special_ids_tiny.json").read_text("utf-8"))[generation]["ids"]
    return TextTokenizer(GOLDEN / "tiny_tokenizer", sorted(ids, key=ids.__getitem__))


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def tokenizer() -> TextTokenizer:
    return tiny_tokenizer("cosyvoice2")


@pytest.fixture(scope="session")
def phone_tokenizer() -> TextTokenizer:
    """Knows phones and pinyin too."""
    return tiny_tokenizer("cosyvoice3")
