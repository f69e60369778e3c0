"""How near one form of a language model comes to another: both read the same rows, and their logits are compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from light_tts.models.nets.speech_lm import SpeechLM
from light_tts.verify.llm_golden import Forward


@dataclass(frozen=True)
class Agreement:
    """Over all places of all sequences.

    places:          at which logits were compared.
    same_first:      share of them at which both would choose the same id.
    relative_error:  length of the difference of the logits by the length of the logits, both without their mean, which
                     changes no probability; mean over the places.
    largest_error:   of one logit, in units of the standard deviation of the logits of its place.
    kl_nats:         Kullback-Leibler divergence of the probabilities from the reference's; mean over the places.
    """

    places: int
    same_first: float
    relative_error: float
    largest_error: float
    kl_nats: float


def compare_logits(reference: Tensor, other: Tensor) -> Agreement:
    """Both [places, ids] float32."""
    wanted, found = (logits.double() - logits.double().mean(dim=1, keepdim=True) for logits in (reference, other))
    log_wanted, log_found = wanted.log_softmax(dim=1), found.log_softmax(dim=1)
    return Agreement(
        places=len(wanted),
        same_first=float((wanted.argmax(dim=1) == found.argmax(dim=1)).double().mean()),
        relative_error=float(((found - wanted).norm(dim=1) / wanted.norm(dim=1)).mean()),
        largest_error=float(((found - wanted).abs().amax(dim=1) / wanted.std(dim=1)).max()),
        kl_nats=float((log_wanted.exp() * (log_wanted - log_found)).sum(dim=1).mean()),
    )


def logits_along(lm: SpeechLM, sequences: Iterable[tuple[list[int], int]], *, kv_int8: bool = False) -> Tensor:
    """Logits [places, ids] while given rows are read one by one, as in decoding.

    sequences:  rows of the joint table, and how many of them are the prompt, which is read in one go; logits are taken
                at its end and after every further row.
    """
    found = []
    for rows, num_prompt in sequences:
        forward = Forward(lm, num_blocks=-(-len(rows) // 16), kv_int8=kv_int8)
        found.append(forward.logits(rows[:num_prompt])[-1:])
        found += [forward.logits([row]) for row in rows[num_prompt:]]
    return torch.cat(found)


def common_start(one: list[int], other: list[int]) -> float:
    """Share of the longer list that both begin with."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    return same / max(len(one), len(other), 1)
