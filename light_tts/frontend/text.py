"""What of a request's preparation needs its text alone: reading numbers, splitting, text ids. Knows no tensors.

Several processes may each have one, where the process of the engine is to be spared this work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from light_tts.errors import EmptyText, InvalidRequest, TextTooLong
from light_tts.frontend.modes import split_prompt_head
from light_tts.frontend.normalize import TextNormalizer
from light_tts.frontend.number_reader import WetextReader
from light_tts.frontend.split import SplitOptions
from light_tts.frontend.streamed_text import StreamedIds, StreamedText
from light_tts.frontend.text_units import LANGUAGES, is_speakable
from light_tts.frontend.tokenizer import TextTokenizer
from light_tts.settings import FrontendSettings
from light_tts.types import PreparedText, SynthesisRequest

if TYPE_CHECKING:
    from light_tts.models.model_dir import ModelDirectory


class TextFrontend:
    """Texts of requests to text ids. Holds no state of requests; safe from many threads.

    settings:    limits and splitting.
    normalizer:  None makes the one for serving from the settings.
    """

    def __init__(
        self, tokenizer: TextTokenizer, settings: FrontendSettings, normalizer: TextNormalizer | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self._max_chars = settings.max_text_chars
        self._normalizer = normalizer or serving_normalizer(tokenizer, settings)

    @classmethod
    def from_model_directory(cls, directory: ModelDirectory, settings: FrontendSettings) -> TextFrontend:
        """That of an opened model directory. Raises CheckpointError for files that do not fit."""
        return cls(TextTokenizer(directory.tokenizer_dir, directory.family.special_tokens), settings)

    def prepare(self, request: SynthesisRequest) -> PreparedText:
        """Read, split and encode a request's text. Raises InvalidRequest (EmptyText, TextTooLong)."""
        self.check(request.text, "text")
        if request.language not in LANGUAGES:
            raise InvalidRequest(
                f"Unknown language {request.language[:40]!r}. Languages: {', '.join(sorted(LANGUAGES))}.", "language"
            )
        head, body = split_prompt_head(request.text)
        if not is_speakable(body):
            raise EmptyText("The text is empty or holds nothing that can be spoken; send at least one word.", "text")
        pieces = self._normalizer.pieces(body, request.language) if request.text_frontend else [body]
        if not pieces:
            raise EmptyText("Nothing that can be spoken is left of the text; send at least one word.", "text")
        return PreparedText(self.encode(head), tuple(self.encode(piece) for piece in pieces))

    def open_text(self, request: SynthesisRequest) -> StreamedIds:
        """The text of a request whose text arrives in pieces: read clause by clause, or as written without
        `text_frontend`; never split.
        """
        normalize = self._normalizer.whole if request.text_frontend else None
        return StreamedIds(
            StreamedText(normalize, request.language),
            check=lambda text: self.check(text, "text"),
            encode=self.tokenizer.encode_user_text,
        )

    def read_transcript(self, words: str) -> str:
        """The words of a recording, read and cleaned up as those of texts are."""
        return self._normalizer.whole(words)

    def encode(self, text: str) -> tuple[int, ...]:
        """Text ids of what a user wrote."""
        return tuple(self.tokenizer.encode_user_text(text)) if text else ()

    def check(self, text: str, field: str) -> None:
        """Raises TextTooLong, or InvalidRequest for what is no text."""
        if self._max_chars and len(text) > self._max_chars:
            raise TextTooLong(f"{field} has {len(text)} characters; at most {self._max_chars} are accepted.", field)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"{field} holds half a surrogate pair, which is no character; send valid Unicode.", field
            ) from error


def serving_normalizer(tokenizer: TextTokenizer, settings: FrontendSettings) -> TextNormalizer:
    """The normaliser for requests: numbers read by `wetext`, protections on, lengths as the settings say."""
    options = SplitOptions(settings.token_max_n, settings.token_min_n, settings.merge_len, settings.comma_split)
    return TextNormalizer(
        tokenizer.count,
        tags=tokenizer.user_tags,
        reader=WetextReader(),
        options=options,
        hard_max=settings.token_hard_max,
    )
