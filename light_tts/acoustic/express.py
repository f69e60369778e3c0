"""What a second lane computes with on a GPU: small calls for first audio beside the large ones for those who listen.

Its kernels go before the others' wherever a multiprocessor has room. On an H200 a call of one row takes 26 ms beside
one of 64 rows, which takes 20 % longer for it; without, it would wait up to 70 ms for its end, and share the next.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch

from light_tts.acoustic.call_log import CallLog
from light_tts.acoustic.express_sizes import EXPRESS_CHUNKS, EXPRESS_ROWS, express_vocoder_frames
from light_tts.acoustic.flow import FlowDecoder
from light_tts.acoustic.flow_graphs import PagedRunner
from light_tts.acoustic.vocoder import WaveDecoder
from light_tts.acoustic.vocoder_graph import VocoderGraphs
from light_tts.events import NO_PROGRESS, StartProgress
from light_tts.kernels.recording import EXPRESS_PRIORITY
from light_tts.models.device_errors import is_device_lost
from light_tts.settings import AcousticSettings

logger = logging.getLogger(__name__)


class Express(NamedTuple):
    """Flow and vocoder beside those of the main lane.

    log:     of the calls of both, the one that the pools of their states look into.
    stream:  of the GPU.
    """

    flow: FlowDecoder
    vocoder: WaveDecoder
    log: CallLog
    stream: torch.cuda.Stream | None = None


def express_beside(
    flow: FlowDecoder,
    vocoder: WaveDecoder,
    log: CallLog,
    settings: AcousticSettings,
    progress: StartProgress = NO_PROGRESS,
) -> Express | None:
    """A second lane where calls are recorded on a GPU; None elsewhere, when it is not wanted, and without room for it.

    When nobody else records. Its vocoder's calls are recorded now, its flow's by `warm_up`.
    """
    max_rows = min(EXPRESS_ROWS, settings.max_batch)
    if not (settings.express_streams and isinstance(flow.runner, PagedRunner) and isinstance(vocoder, VocoderGraphs)):
        return None
    if not flow.runner.num_recorded or not vocoder.num_graphs:
        return None
    try:
        runner = flow.runner.beside(max_rows, EXPRESS_CHUNKS)
        small = vocoder.beside(max_rows, express_vocoder_frames(flow.net.chunk_frames))
        runner.record(runner.sizes(max_rows)[:1])  # the others may fail for want of memory, as in the main lane
        small.capture(max_rows, progress)
    except Exception as error:  # whatever the driver says, most likely out of memory
        if is_device_lost(error):
            raise
        logger.warning("first audio shares the calls of others: %s: %s", type(error).__name__, error)
        return None
    stream = torch.cuda.Stream(flow.net.device, priority=EXPRESS_PRIORITY)
    return Express(flow.beside(runner), small, log, stream)
