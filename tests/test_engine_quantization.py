"""Quantisation end to end with the built-in model: settings in, speech out, bytes in the log and on the health page."""

import logging
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from light_tts.engine import TTSEngine
from light_tts.errors import ConfigError
from light_tts.settings import LLMSettings, Settings
from light_tts.types import SynthesisRequest

ROOT = Path(__file__).parents[1]
YAML = """
quant_type: triton_int8weight
mix_bits:
  - {name: down_proj, quant_type: none, layer_nums: [0, 6]}
  - {name: o_proj, quant_type: triton_int4weight}
"""


def test_a_file_is_followed_said_and_shown(tmp_path, caplog):
    path = tmp_path / "quant_config.yaml"
    path.write_text(YAML)
    llm = LLMSettings(quant_type="custom", custom_cfg_path=path, kv_cache_dtype="int8")
    with caplog.at_level(logging.INFO, "light_tts.llm.engine"), TTSEngine.load(Settings(llm=llm)) as engine:
        shown = engine.health()["quantization"]
        with engine.submit(SynthesisRequest("Hi.", voice="en_female", seed=1, flow_steps=2)) as audio:
            assert sum(chunk.samples.size for chunk in audio) > 2400
    assert shown["weights"] == "custom"
    assert shown["weight_formats"] == {"int8": 19, "int4": 7, "none": 2}
    assert shown["excluded_layers"] == {"down_proj": [0, 6]}
    assert shown["weight_bytes_saved"] > 2 * shown["weight_bytes"]
    assert (shown["kv_cache"], shown["kv_bytes_saved"] > 2 * shown["kv_bytes"]) == ("int8", True)
    line = next(record.getMessage() for record in caplog.records if "language model:" in record.getMessage())
    assert "down_proj of layers 0, 6 as it is" in line
    assert f"{shown['weight_bytes'] / 1e6:.1f} MB ({shown['weight_bytes_saved'] / 1e6:.1f} MB saved)" in line


def test_a_layer_the_model_lacks_is_refused_before_anything_is_loaded(tmp_path):
    path = tmp_path / "quant_config.yaml"
    path.write_text("quant_type: int8\nmix_bits: [{name: down_proj, quant_type: none, layer_nums: [7]}]\n")
    with pytest.raises(ConfigError, match="down_proj has layer_nums 7, but the model's layers are numbered 0 to 6"):
        TTSEngine.load(Settings(llm=LLMSettings(quant_type="custom", custom_cfg_path=path)))


def test_a_file_that_is_not_there_ends_the_server_with_status_2(tmp_path):
    path = tmp_path / "none.yaml"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "light_tts", "serve", "--port", port, "--quant-type", "custom"]
    ended = subprocess.run(
        [*command, "--custom-cfg-path", str(path)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 2
    assert f"custom_cfg_path: cannot read {path}" in ended.stderr
    assert "Traceback" not in ended.stderr
