from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from light_tts.cli import main
from light_tts.errors import InvalidRequest
from light_tts.verify import layouts
from light_tts.verify.layouts import Layout, find_layout
from light_tts.verify.report import Ledger, Row
from light_tts.verify.runner import Report, Section, verify_golden

GOLDEN = Path(__file__).resolve().parent.parent / "golden"

Check = Callable[[Ledger], None]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A directory of a made-up layout with one tensor file, and the checks that belong to it."""

    def make(*checks: Check, name: str = "toy") -> Path:
        directory = tmp_path / "golden" / name
        directory.mkdir(parents=True)
        save_file({"x": torch.ones(2, 3), "y": torch.zeros(4)}, directory / "data.safetensors")
        (directory / "README.md").write_text("tolerances")
        layout = Layout(
            "toy",
            lambda path: (path / "data.safetensors").is_file(),
            lambda ledger, options: [
                (f"check {i}", lambda check=check: check(ledger)) for i, check in enumerate(checks)
            ],
        )
        monkeypatch.setattr(layouts, "LAYOUTS", (layout,))
        return directory

    return make


def compare_x(ledger: Ledger) -> None:
    ledger.compare("data.safetensors", "x", torch.ones(2, 3) + 1e-6, 1e-5)


def compare_y(ledger: Ledger) -> None:
    ledger.compare("data.safetensors", "y", torch.zeros(4), 1e-5)


def names_of(report: Report) -> list[str]:
    return [row.name for row in report.misses]


def test_all_tensors_compared_is_ok(toy: Callable[..., Path]) -> None:
    report = verify_golden(toy(compare_x, compare_y))
    assert report.ok
    assert [(row.name, row.shape, row.tolerance) for row in report.rows] == [
        ("data/x", "2x3", 1e-5),
        ("data/y", "4", 1e-5),
    ]
    assert report.summary() == "2 rows checked, all ok; 0 informative"


def test_a_tensor_nobody_looked_at_is_a_miss(toy: Callable[..., Path]) -> None:
    assert names_of(verify_golden(toy(compare_x))) == ["data.safetensors/y"]


def test_a_file_nobody_opened_is_a_miss(toy: Callable[..., Path]) -> None:
    directory = toy(compare_x, compare_y)
    (directory / "more.json").write_text("{}")
    assert names_of(verify_golden(directory)) == ["more.json"]


def test_a_check_that_breaks_is_a_miss_and_the_others_still_run(toy: Callable[..., Path]) -> None:
    def broken(ledger: Ledger) -> None:
        ledger.input("data.safetensors", "no such tensor")

    report = verify_golden(toy(broken, compare_x, compare_y))
    assert [(row.name, row.note) for row in report.misses] == [("check 0", "broke off: KeyError: 'no such tensor'")]
    assert report.num_checked == 3


def test_an_informative_difference_does_not_count(toy: Callable[..., Path]) -> None:
    def differs(ledger: Ledger) -> None:
        ledger.compare("data.safetensors", "y", torch.ones(4), 1e-5, informative=True)

    report = verify_golden(toy(compare_x, differs))
    assert report.ok
    assert report.summary() == "1 rows checked, all ok; 1 informative"


def test_nothing_checked_is_not_ok() -> None:
    assert not Report([]).ok
    assert not Report([Section("x", [Row("a", "-", None, None, False, informative=True)])]).ok


def test_a_directory_of_several_runs_all_and_names_what_it_does_not_know(toy: Callable[..., Path]) -> None:
    directory = toy(compare_x, compare_y).parent
    (directory / "strange").mkdir()
    (directory / "stray.bin").write_bytes(b"")
    (directory / "README.md").write_text("")
    sections: list[str] = []
    report = verify_golden(directory, on_section=lambda section: sections.append(section.title))
    assert sections == ["strange", "toy (toy)", "golden"]
    assert [(row.name, row.note) for row in report.misses] == [
        ("strange", "no known layout"),
        ("stray.bin", "file not checked"),
    ]


def test_a_directory_without_golden_data_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="holds no golden data"):
        verify_golden(tmp_path)
    with pytest.raises(InvalidRequest, match="is not a directory"):
        verify_golden(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("cosyvoice2_tiny", "acoustic"),
        ("cosyvoice3_tiny", "acoustic"),
        ("llm_tiny", "llm"),
        ("frontend", "frontend"),
        ("schedule", "schedule"),
        ("model_dir", "model_dir"),
    ],
)
def test_the_layout_is_found_by_what_is_in_the_directory(name: str, layout: str, tmp_path: Path) -> None:
    found = find_layout(GOLDEN / name)
    assert found is not None
    assert found.name == layout
    assert find_layout(tmp_path) is None


def test_status_and_output_of_the_command(toy: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    directory = toy(compare_x, compare_y)
    assert main(["verify", "--golden", str(directory)]) == 0
    out = capfd.readouterr().out
    assert "data/x" in out
    assert "9.5e-07" in out
    assert "2 rows checked, all ok" in out
    (directory / "more.json").write_text("{}")
    assert main(["verify", "--golden", str(directory)]) == 1
    assert "NOT ok: more.json  file not checked" in capfd.readouterr().out
    assert main(["verify", "--golden", str(directory), "--json"]) == 1
    data = json.loads(capfd.readouterr().out)
    assert (data["ok"], data["checked"], data["misses"]) == (False, 3, 1)
    assert data["sections"][0]["rows"][2]["name"] == "more.json"


def test_a_changed_number_of_a_schedule_is_found(tmp_path: Path) -> None:
    directory = tmp_path / "schedule"
    shutil.copytree(GOLDEN / "schedule", directory)
    assert verify_golden(directory).ok
    text = (directory / "offline.json").read_text("utf-8")
    (directory / "offline.json").write_text(text.replace('"mel_frames": ', '"mel_frames": 1', 1))
    assert len(verify_golden(directory).misses) == 1


def manifest(tmp_path: Path, name: str, change: Callable[[dict[str, list[object]]], object]) -> Report:
    (tmp_path / "golden").mkdir()
    keys = json.loads((GOLDEN / name).read_text("utf-8"))
    change(keys)
    (tmp_path / "golden" / name).write_text(json.dumps(keys))
    return verify_golden(tmp_path / "golden")


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("manifest_*.json")), ids=lambda path: path.stem)
def test_the_published_key_lists_are_ours(path: Path, tmp_path: Path) -> None:
    report = manifest(tmp_path, path.name, lambda keys: None)
    assert report.ok
    assert report.num_checked == 2


def test_a_key_or_shape_of_a_published_list_that_we_lack_is_found(tmp_path: Path) -> None:
    def change(keys: dict[str, list[object]]) -> None:
        keys["new.weight"] = [[1], "float32"]
        keys["input_embedding.weight"] = [[1, 2], "float32"]

    report = manifest(tmp_path, "manifest_cosyvoice2_flow.json", change)
    assert [row.note for row in report.misses] == ["we lack 1: new.weight", "differ 1: input_embedding.weight"]


def test_a_manifest_of_an_unknown_family_is_a_miss(tmp_path: Path) -> None:
    (tmp_path / "manifest_other_flow.json").write_text("{}")
    assert names_of(verify_golden(tmp_path)) == ["manifest_other_flow.json"]


def test_our_models_agree_with_all_recorded_data_of_the_reference() -> None:
    """The whole purpose: every tensor and case of every directory, within its tolerance, and nothing left unchecked."""
    report = verify_golden(GOLDEN)
    assert [f"{row.name}: {row.note}" for row in report.misses] == []
    assert {section.title for section in report.sections} == {
        "cosyvoice2_tiny (acoustic)",
        "cosyvoice3_tiny (acoustic)",
        "frontend (frontend)",
        "llm_tiny (llm)",
        "manifests",
        "model_dir (model_dir)",
        "schedule (schedule)",
    }


@pytest.mark.parametrize(
    ("directory", "filename", "tensor", "change"),
    [
        ("cosyvoice2_tiny", "estimator.safetensors", "out_stream", 1e-3),
        ("cosyvoice3_tiny", "vocoder.safetensors", "f0", 0.1),
        ("cosyvoice2_tiny", "token2wav.safetensors", "stream_upstream.wav", 0.1),
        ("llm_tiny", "cosyvoice3/greedy.safetensors", None, 0.01),
    ],
)
def test_a_changed_tensor_is_found(
    directory: str, filename: str, tensor: str | None, change: float, tmp_path: Path
) -> None:
    shutil.copytree(GOLDEN / directory, tmp_path / directory)
    path = tmp_path / directory / filename
    tensors = load_file(path)
    name = tensor or sorted(tensors)[0]
    tensors[name].view(-1)[-1] += change
    save_file(tensors, path)
    misses = [row.name.split(" ")[0] for row in verify_golden(tmp_path / directory).misses]
    assert f"{filename.removesuffix('.safetensors')}/{name}" in misses
    # A tensor that other checks start from (a pitch) takes them along, and nothing else.
    assert {miss.split("/")[0] for miss in misses} == {filename.split("/")[0].removesuffix(".safetensors")}
