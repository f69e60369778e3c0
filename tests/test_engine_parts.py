import subprocess
import sys
from pathlib import Path

LOAD = """
import sys
from light_tts.engine import TTSEngine
from light_tts.settings import Settings

with TTSEngine.load(Settings()) as engine:
    engine.warm_up()
print(sorted({"torch._dynamo", "torch._inductor"} & set(sys.modules)))
"""


def test_a_start_does_not_import_the_compilers_of_torch():
    """They are 800 modules: over a second where they are compiled already, and several elsewhere."""
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", LOAD], cwd=root, capture_output=True, text=True, timeout=300)
    assert result.stdout.strip() == "[]", result.stderr
