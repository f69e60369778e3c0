import json
from pathlib import Path

import pytest

from light_tts.errors import CheckpointError
from light_tts.models.family import families
from light_tts.models.vocabulary import special_token_ids

GOLDEN = Path(__file__).parents[1] / "golden" / "frontend"


def write_vocabulary(directory: Path, num_base: int, added: dict[int, str]) -> None:
    (directory / "vocab.json").write_text(json.dumps({f"t{n}": n for n in range(num_base)}))
    decoder = {str(number): {"content": content} for number, content in added.items()}
    (directory / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))


def test_ids_of_the_small_vocabulary_are_the_recorded_ones():
    recorded = json.loads((GOLDEN / "special_ids_tiny.json").read_text())
    for family in families():
        assert special_token_ids(GOLDEN / "tiny_tokenizer", family.special_tokens) == recorded[family.name]["ids"]


def test_ids_on_a_published_vocabulary(tmp_path):
    base = {151643: "<|endoftext|>", 151644: "<|im_start|>", 151645: "<|im_end|>"}
    write_vocabulary(tmp_path, 151643, base)
    second, third = families()
    assert special_token_ids(tmp_path, second.special_tokens)["[mn]"] == 151662
    ids = special_token_ids(tmp_path, third.special_tokens)
    assert (ids["<|endofprompt|>"], ids["<|endofsystem|>"], max(ids.values())) == (151646, 151663, 151923)


def test_a_published_vocabulary_with_other_added_tokens_is_refused(tmp_path):
    write_vocabulary(tmp_path, 151643, {151643: "<|endoftext|>", 151644: "<|im_start|>"})
    with pytest.raises(CheckpointError, match="expected 151646"):
        special_token_ids(tmp_path, ["<|im_end|>", "[breath]", "<|endofprompt|>"])


@pytest.mark.parametrize("content", ["[]", "{", '{"a": "x"}', '{"a": null}'])
def test_a_broken_vocabulary_is_refused(tmp_path, content):
    write_vocabulary(tmp_path, 3, {})
    (tmp_path / "vocab.json").write_text(content)
    with pytest.raises(CheckpointError):
        special_token_ids(tmp_path, ["<|endofprompt|>"])
