"""The command `light-tts`: finds the verb, lets it run, turns errors into one sentence and an exit status.

Exit status: 0 done; 1 something failed; 2 the user's mistake; 130 interrupted; 141 the reader of our output went away.
Importing this, and `--help` of every verb, loads no torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from light_tts import __version__
from light_tts.bench import command as bench
from light_tts.commands import VERBS
from light_tts.commands.arguments import CommandParser, with_dashes
from light_tts.errors import CheckpointError, ConfigError, InvalidRequest, LightTTSError

EXIT_FAILED, EXIT_MISTAKE, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 1, 2, 130, 141


def build_parser() -> CommandParser:
    """The whole command line."""
    parser = CommandParser(
        prog="light-tts",
        description="Text to speech: on this machine's speakers, into a file, or served over HTTP and WebSocket.",
        epilog="'light-tts VERB --help' explains a verb. Every setting can also be an environment variable "
        "(LIGHT_TTS_PORT=8000) or a line in a file given with --config.",
    )
    parser.add_argument("--version", action="version", version=f"light-tts {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    for verb in (*VERBS, bench):
        verb.add_parser(verbs)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the value is the exit status. Raises SystemExit only for `--help` and wrong arguments."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parsed = build_parser().parse_args(with_dashes(words))
    return run_command(lambda: parsed.run(parsed))


def run_command(command: Callable[[], int]) -> int:
    """Run it and return its exit status; errors meant for the user become one sentence and a status."""
    try:
        return int(command())
    except KeyboardInterrupt:
        return _leave("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Python would complain again when it flushes at exit: give it somewhere to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except (InvalidRequest, ConfigError, CheckpointError) as error:
        return _leave(str(error), EXIT_MISTAKE)
    except LightTTSError as error:
        return _leave(str(error), EXIT_FAILED)
    except ModuleNotFoundError as error:
        if (error.name or "light_tts").split(".")[0] == "light_tts":
            raise
        return _leave(f"the package '{error.name}' is not installed; 'light-tts doctor' lists all", EXIT_FAILED)


def _leave(sentence: str, status: int) -> int:
    print(f"light-tts: {' '.join(sentence.split())}", file=sys.stderr)
    return status
