"""The tokenizer beyond the recorded ids: users' tags, decoding, bad files."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.errors import CheckpointError
from light_tts.frontend.tokenizer import TextTokenizer


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
def test_decoding_gives_the_text_back(tokenizer: TextTokenizer, text: str):
    assert tokenizer.decode(tokenizer.encode_user_text(text)) == unicodedata.normalize("NFC", text)


@settings(deadline=None)
@given(text=st.text(st.characters(max_codepoint=127), max_size=80))
def test_an_ascii_character_is_one_id_at_most(tokenizer: TextTokenizer, text: str):
    """Splitting need not count a text that has few characters."""
    assert tokenizer.count(text) <= len(text)


@settings(deadline=None)
@given(
    parts=st.lists(
        st.sampled_from(["[laughter]", "<strong>", "hello ", "你", " ", "<|endofprompt|>", "[", "|>"]), max_size=12
    )
)
def test_documented_tags_are_the_same_for_users(tokenizer: TextTokenizer, parts: list[str]):
    text = "".join(parts)
    assert tokenizer.encode_user_text(text) == tokenizer.encode(text)


@pytest.mark.parametrize("tag", ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|endofsystem|>", "<|anything|>"])
def test_control_marks_are_plain_characters_for_users(tag: str, phone_tokenizer: TextTokenizer):
    ids = phone_tokenizer.encode_user_text(f"a{tag}b")
    assert phone_tokenizer.decode(ids) == f"a{tag}b"
    assert not set(ids) & set(phone_tokenizer.special_ids.values())


def test_phones_are_one_id_where_the_model_has_them(tokenizer: TextTokenizer, phone_tokenizer: TextTokenizer):
    assert phone_tokenizer.encode_user_text("[OW1]") == [phone_tokenizer.special_ids["[OW1]"]]
    assert len(tokenizer.encode_user_text("[OW1]")) > 1


def test_a_missing_file_is_named(tmp_path: Path, golden: Path):
    shutil.copytree(golden / "tiny_tokenizer", tmp_path / "t")
    (tmp_path / "t" / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"merges\.txt"):
        TextTokenizer(tmp_path / "t", ())


@pytest.mark.parametrize("config", ["{}", "[]", "not json", '{"added_tokens_decoder": {"7": {"content": "<|x|>"}}}'])
def test_a_wrong_tokenizer_config_is_refused(tmp_path: Path, golden: Path, config: str):
    shutil.copytree(golden / "tiny_tokenizer", tmp_path / "t")
    (tmp_path / "t" / "tokenizer_config.json").write_text(config)
    with pytest.raises(CheckpointError, match="tokenizer_config"):
        TextTokenizer(tmp_path / "t", ())


def test_a_damaged_vocabulary_is_refused(tmp_path: Path, golden: Path):
    shutil.copytree(golden / "tiny_tokenizer", tmp_path / "t")
    (tmp_path / "t" / "vocab.json").write_text(json.dumps({"a": "b"}))
    with pytest.raises(CheckpointError, match="cannot be read"):
        TextTokenizer(tmp_path / "t", ())
