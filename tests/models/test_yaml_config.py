import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.errors import CheckpointError
from light_tts.models.yaml_config import class_name, has_path, parse_config, read_config, value_at
from light_tts.models.yaml_references import evaluate

GOLDEN = Path(__file__).parents[1] / "golden" / "model_dir"


@pytest.mark.parametrize("filename", ["cosyvoice2.yaml", "cosyvoice3.yaml"])
def test_samples_read_as_recorded(filename):
    config = read_config(GOLDEN / filename)
    expected = json.loads((GOLDEN / "expected.json").read_text())[filename]
    for path, value in expected.items():
        if path == "version":
            continue
        actual = value_at(config, path, "<absent>")
        assert (actual, type(actual)) == (value, type(value)), path


def test_class_paths_are_kept_as_text():
    config = read_config(GOLDEN / "cosyvoice3.yaml")
    assert class_name(config["llm"]) == "CosyVoice3LM"
    assert class_name(config["hift"]["istft_params"]) is None
    assert config["__set_seed1"] == [7]


def test_scalars_follow_yaml_1_2():
    config = parse_config(
        "a: 1e-5\nb: yes\nc: 010\nd: 1:30\ne: ~\nf:\ng: True\nh: 2020-01-01\ni: .inf\nj: '1'\nk: 0x10"
    )
    assert config == {
        "a": 1e-5, "b": "yes", "c": 10, "d": "1:30", "e": None, "f": None, "g": True, "h": "2020-01-01",
        "i": float("inf"), "j": "1", "k": 16,
    }  # fmt: skip


def test_references_keep_their_type_and_go_into_mappings():
    config = parse_config(
        "a: 25\nb: !ref <a>\nc: {d: [5, 15]}\ne: !ref <c[d]>\nf: !ref <g>\ng: !ref <c>\nh: !ref <f[d]>"
    )
    assert config["b"] == 25
    assert config["e"] == config["h"] == [5, 15]
    assert config["f"] == {"d": [5, 15]}


def test_absent_and_null_are_told_apart():
    config = parse_config("a: {b: null}")
    assert has_path(config, "a.b")
    assert not has_path(config, "a.c")
    assert not has_path(config, "a.b.c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system ['true']", "unknown tag"),
        ("a: !include:other.yaml", "unknown tag"),
        ("a: !applyref:os.getcwd", "unknown tag"),
        ("a: !copy <b>\nb: 1", "unknown tag"),
        ("a: !PLACEHOLDER", "unknown tag"),
        ("a: !new:", "names no class"),
        ("a: 1\na: 2", "line 2: the key 'a' stands there twice"),
        ("a: !new:x.Y {b: 1, b: 2}", "twice"),
        ("- 1", "top level"),
        ("", "top level"),
        ("? [1]\n: 2", "plain word"),
        ("a: &x 1\nb: *x", "anchors"),
        ("a: !ref <b>\nb: !ref <c>\nc: !ref <a>", "circle"),
        ("a: {b: !ref <a>}", "circle"),
        ("a: !ref <missing>", "does not exist"),
        ("a: 'x'\nb: !ref <a> * 2", "not a number"),
        ("a: !ref __import__('os').getcwd()", "only numbers"),
        ("a: 9\nb: !ref <a> ** <a> ** <a>", "exponent"),
        ("a: !ref 1 // 0", "cannot be computed"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: [1", "line"),
    ],
)
def test_everything_else_is_refused_in_one_sentence(text, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        parse_config(text)
    assert "\n" not in str(caught.value)


def test_references_that_multiply_are_stopped():
    lines = ["a0: [1, 1, 1, 1]", *(f"a{n}: [!ref <a{n - 1}>, !ref <a{n - 1}>]" for n in range(1, 60))]
    with pytest.raises(CheckpointError, match="enormous"):
        parse_config("\n".join(lines))


def test_a_tag_never_runs_anything(tmp_path):
    witness = tmp_path / "witness"
    config = parse_config(f"a: !apply:os.mkdir ['{witness}']\nb: !new:subprocess.Popen {{args: [touch, '{witness}']}}")
    assert config["a"] == [str(witness)]
    assert not witness.exists()


def test_files_that_are_no_configuration(tmp_path):
    big = tmp_path / "big.yaml"
    big.write_text("a: " + "x" * (1 << 20))
    with pytest.raises(CheckpointError, match=r"big\.yaml has 10"):
        read_config(big)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="UTF-8"):
        read_config(binary)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_config(tmp_path / "missing.yaml")


@settings(max_examples=200)
@given(st.text(alphabet="abc:!<>[]{}&*-? \n'\"#|0123456789.,ref", max_size=60))
def test_any_text_is_data_or_a_checkpoint_error(text):
    try:
        config = parse_config(text)
    except CheckpointError:
        return
    assert isinstance(config, dict)


@given(st.integers(-99, 99), st.integers(-99, 99), st.integers(1, 99))
def test_arithmetic(a, b, c):
    assert evaluate("(x - y) * z // z % 7 + +1", {"x": a, "y": b, "z": c}) == (a - b) * c // c % 7 + 1
