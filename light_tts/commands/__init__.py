"""The verbs of the command line, one module each: `add_parser` describes it, `run` does it.

`run` imports the heavy parts, so that describing a command costs nothing.
"""

from __future__ import annotations

from light_tts.commands import build_trt, doctor, presets, say, serve, verify, voices

VERBS = (say, serve, presets, voices, verify, doctor, build_trt)
