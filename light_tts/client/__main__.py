"""`python -m light_tts.client`."""

import sys

from light_tts.client.command import main

sys.exit(main())
