"""The network, the sampler and the layouts against what the reference computed."""

import json
import shutil

import pytest

from light_tts.verify.llm_checks import check_llm
from light_tts.verify.report import Ledger
from tests.llm.tiny_llm import GOLDEN


def misses(directory):
    ledger = Ledger(directory)
    check_llm(ledger)
    return [row for row in ledger.finish() if not row.ok and not row.informative], ledger.rows


def test_every_case_and_every_tensor_agrees():
    missed, rows = misses(GOLDEN)
    assert missed == []
    assert len(rows) > 400


@pytest.mark.parametrize(
    ("filename", "change"),
    [
        ("greedy.json", lambda data: data["zero_shot"]["tokens"].__setitem__(7, 0)),
        ("sampled.json", lambda data: data["instruct2"]["tokens"].__setitem__(3, 0)),
        ("ras.json", lambda data: data[0]["candidates"].reverse()),
        ("limits.json", lambda data: data[0].__setitem__("max_len", 61)),
        ("bistream.json", lambda data: data["typical"]["recommended"]["feeds"][3].append("task")),
    ],
)
def test_a_changed_fixture_is_noticed(tmp_path, filename, change):
    """The checks compare what they claim to."""
    shutil.copytree(GOLDEN / "cosyvoice2", tmp_path / "cosyvoice2", copy_function=shutil.copy)
    path = tmp_path / "cosyvoice2" / filename
    path.chmod(0o644)
    data = json.loads(path.read_text())
    change(data)
    path.unlink()
    path.write_text(json.dumps(data))
    missed, _ = misses(tmp_path)
    assert any(row.name.startswith(f"cosyvoice2/{path.stem}/") for row in missed)
