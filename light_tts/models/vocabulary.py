"""Ids of the special text tokens, from the tokenizer's files alone (spec: frontend, section 1)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from light_tts.errors import CheckpointError

TOKENIZER_FILES = ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json")
END_OF_PROMPT = "<|endofprompt|>"
PUBLISHED_BASE_TOKENS = 151_643
PUBLISHED_END_OF_PROMPT_ID = 151_646


def read_json(path: Path, kind: type = dict) -> Any:
    """A JSON file whose top level is of the given kind. Raises CheckpointError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); copy it again.") from error
    if not isinstance(value, kind):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected a {kind.__name__}; copy it again.")
    return value


def special_token_ids(tokenizer_dir: Path, special_tokens: Sequence[str]) -> dict[str, int]:
    """Id of each special token: those the files know keep theirs, the others get the next ids in order.

    Raises CheckpointError when a published vocabulary does not give the published id of the end-of-prompt tag.
    """
    vocabulary = read_json(tokenizer_dir / "vocab.json")
    declared = read_json(tokenizer_dir / "tokenizer_config.json").get("added_tokens_decoder") or {}
    known: dict[str, int] = dict(vocabulary)
    try:
        known.update({str(token["content"]): int(number) for number, token in declared.items()})
        next_id = max(len(known), 1 + max(int(number) for number in known.values()))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"The vocabulary in {tokenizer_dir} has ids that are no numbers; copy its files again."
        ) from error
    ids = {}
    for token in special_tokens:
        if token not in known:
            known[token] = next_id
            next_id += 1
        ids[token] = known[token]
    if len(vocabulary) == PUBLISHED_BASE_TOKENS and ids.get(END_OF_PROMPT) != PUBLISHED_END_OF_PROMPT_ID:
        raise CheckpointError(
            f"{END_OF_PROMPT} has id {ids.get(END_OF_PROMPT)} in {tokenizer_dir}, "
            f"expected {PUBLISHED_END_OF_PROMPT_ID}; tokenizer_config.json was changed, so use the published one."
        )
    return ids
