"""Text to text ids: byte-level BPE in the Qwen2 file format (spec: frontend, section 1)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from light_tts.errors import CheckpointError

END_OF_PROMPT = "<|endofprompt|>"
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Control marks of the text model; a user who types one means the characters.
_NOT_FOR_USERS = frozenset({"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|endofsystem|>"})


class TextTokenizer:
    """The tokenizer of one checkpoint. Immutable; safe from many threads.

    directory:       holds vocab.json, merges.txt and tokenizer_config.json.
    special_tokens:  the checkpoint's ordered list; those not in the files yet get the next ids in order.

    Raises CheckpointError when a file is missing, unreadable or contradicts itself.
    """

    def __init__(self, directory: Path, special_tokens: Sequence[str]) -> None:
        model = _load_bpe(directory)
        self._with_tags = _assemble(model)
        self._plain = _assemble(model)  # shares the vocabulary, knows no special token
        _add_base_tokens(self._with_tags, directory)
        self._with_tags.add_special_tokens([_special(token) for token in special_tokens])
        self.special_tokens: tuple[str, ...] = tuple(special_tokens)
        self.special_ids: dict[str, int] = {token: self._id_of(token) for token in special_tokens}
        self.end_of_prompt_id = self.special_ids.get(END_OF_PROMPT)
        self.user_tags: tuple[str, ...] = tuple(token for token in special_tokens if token not in _NOT_FOR_USERS)
        longest_first = sorted(self.user_tags, key=len, reverse=True)
        self._user_tag = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def __len__(self) -> int:
        """Number of ids, special tokens included."""
        return int(self._with_tags.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Text ids, with every special token of the checkpoint honoured. No beginning or end mark is added."""
        return list(self._with_tags.encode(text, add_special_tokens=False).ids)

    def encode_user_text(self, text: str) -> list[int]:
        """Text ids of what a user wrote: documented tags are special, any other "<|...|>" is plain characters."""
        ids: list[int] = []
        end = 0
        for match in self._user_tag.finditer(text):
            ids += self._plain.encode(text[end : match.start()], add_special_tokens=False).ids
            ids.append(self.special_ids[match.group()])
            end = match.end()
        ids += self._plain.encode(text[end:], add_special_tokens=False).ids
        return ids

    def count(self, text: str) -> int:
        """Number of text ids of what a user wrote."""
        return len(self.encode_user_text(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; special tokens are dropped."""
        return str(self._with_tags.decode(list(ids), skip_special_tokens=True))

    def _id_of(self, token: str) -> int:
        found = self._with_tags.token_to_id(token)
        assert found is not None, token  # just added
        return int(found)


def _load_bpe(directory: Path) -> BPE:
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        if not (directory / name).is_file():
            raise CheckpointError(f"The tokenizer file {directory / name} is missing; get the directory complete.")
    try:
        return BPE.from_file(str(directory / "vocab.json"), str(directory / "merges.txt"))
    except Exception as error:  # the library raises bare Exception for every kind of bad file
        raise CheckpointError(f"The tokenizer files in {directory} cannot be read: {error}") from error


def _assemble(model: BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_WORDS), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _add_base_tokens(tokenizer: Tokenizer, directory: Path) -> None:
    path = directory / "tokenizer_config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text("utf-8"))
        declared = sorted((int(key), str(value["content"])) for key, value in config["added_tokens_decoder"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} has no readable 'added_tokens_decoder': {error!r}") from error
    tokenizer.add_special_tokens([_special(content) for _, content in declared])
    for wanted, content in declared:
        if tokenizer.token_to_id(content) != wanted:
            raise CheckpointError(
                f"{path} says {content} has id {wanted}, but vocab.json makes it {tokenizer.token_to_id(content)}; "
                "the files belong to different tokenizers."
            )


def _special(content: str) -> AddedToken:
    return AddedToken(content, special=True, normalized=False, lstrip=False, rstrip=False, single_word=False)
