import pytest
import torch

from light_tts.assets import builtin_model_dir
from light_tts.models.inspection import inspect_model_dir
from light_tts.verify.model_dir_checks import inspection_rows


def bad(findings):
    return {finding.name: finding.note for finding in findings if not finding.ok}


def test_a_good_directory():
    findings = inspect_model_dir(builtin_model_dir())
    assert bad(findings) == {}
    by_name = {finding.name: finding for finding in findings}
    assert by_name["spk2info.pt"].note == "en_female, en_male, zh_female"
    assert "float16" in by_name["llm.pt"].note
    assert "14.2 M" in by_name["llm.pt"].note, "tied weights count once"
    assert {f"{name}.pt keys and shapes" for name in ("llm", "flow", "hift")} <= set(by_name)


def test_all_problems_are_shown_at_once(copied_model):
    for name, key in (("llm", "llm_decoder.bias"), ("flow", "encoder_proj.bias")):
        path = copied_model / f"{name}.pt"
        state = dict(torch.load(path, weights_only=True))
        state[key] = state[key].clone().fill_(float("inf")) if name == "llm" else state[key][:3].clone()
        path.unlink()
        torch.save(state, path)
    for name, content in (("hift.pt", b"nonsense"), ("campplus.onnx", b""), ("spk2info.pt", b"x" * 100)):
        (copied_model / name).unlink()
        (copied_model / name).write_bytes(content)
    problems = bad(inspect_model_dir(copied_model))
    assert set(problems) == {"llm.pt finite", "flow.pt keys and shapes", "hift.pt", "campplus.onnx", "spk2info.pt"}
    assert "llm_decoder.bias" in problems["llm.pt finite"]
    assert "encoder_proj.bias" in problems["flow.pt keys and shapes"]


def test_what_may_be_missing_is_said_and_not_counted(copied_model):
    for name in ("campplus.onnx", "speech_tokenizer_v2.onnx", "spk2info.pt"):
        (copied_model / name).unlink()
    rows = {row.name: row for row in inspection_rows(copied_model)}
    for name in ("campplus.onnx", "speech_tokenizer_v2.onnx", "spk2info.pt"):
        assert rows[name].ok
        assert rows[name].informative
        assert "not there" in rows[name].note


@pytest.mark.parametrize("name", ["cosyvoice2.yaml", "flow.pt"])
def test_a_directory_that_cannot_be_opened_is_one_bad_row(copied_model, name):
    (copied_model / name).unlink()
    (row,) = inspection_rows(copied_model)
    assert not row.ok
    assert name in row.note
