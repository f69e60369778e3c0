import os
import pickle
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from light_tts.errors import CheckpointError
from light_tts.models.checkpoint import find_weights, first_not_finite, load_weights, read_shapes, require_finite


@pytest.fixture
def state():
    table = torch.arange(12.0).view(4, 3)
    return {"table.weight": table, "head.weight": table, "bias": torch.ones(3, dtype=torch.float16)}


@pytest.mark.parametrize("archive", [True, False])
def test_torch_files_of_both_forms_are_read_and_keep_sharing(tmp_path, state, archive):
    path = tmp_path / "llm.pt"
    torch.save(state | {"epoch": 3, "step": 17}, path, _use_new_zipfile_serialization=archive)
    loaded = load_weights(path)
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert loaded["table.weight"].data_ptr() == loaded["head.weight"].data_ptr()
    assert read_shapes(path) == {"table.weight": (4, 3), "head.weight": (4, 3), "bias": (3,)}


def test_safetensors_are_read(tmp_path, state):
    path = tmp_path / "llm.safetensors"
    save_file({"bias": state["bias"]}, path)
    assert torch.equal(load_weights(path)["bias"], state["bias"])


def test_pt_wins_over_safetensors_and_either_is_enough(tmp_path):
    assert find_weights(tmp_path, "llm") is None
    (tmp_path / "llm.safetensors").touch()
    assert find_weights(tmp_path, "llm") == tmp_path / "llm.safetensors"
    (tmp_path / "llm.pt").touch()
    assert find_weights(tmp_path, "llm") == tmp_path / "llm.pt"


class _Attack:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (self.witness,)


# torch warns about the protocol of a foreign pickle before it refuses it
foreign_protocol = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


@foreign_protocol
@pytest.mark.parametrize("archive", [True, False])
def test_a_file_that_wants_to_run_code_is_refused_and_does_not(tmp_path, archive):
    path, witness = tmp_path / "llm.pt", tmp_path / "witness"
    torch.save({"x": _Attack(str(witness))}, path, _use_new_zipfile_serialization=archive)
    with pytest.raises(CheckpointError, match=r"llm\.pt wants to run code"):
        load_weights(path)
    path.write_bytes(pickle.dumps(_Attack(str(witness))))
    with pytest.raises(CheckpointError, match=r"llm\.pt"):
        load_weights(path)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<html>404 not found</html>", "no torch file|cannot be read"),
        (b"PK\x03\x04" + bytes(200), "cannot be read"),
        (bytes(500), "no torch file|cannot be read"),
    ],
)
def test_foreign_files_are_refused_in_one_sentence(tmp_path, content, message):
    for name in ("flow.pt", "flow.safetensors"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message if name.endswith(".pt") else name) as caught:
            load_weights(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="no weight file"):
        load_weights(tmp_path / "missing.pt")


@foreign_protocol
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")  # torch's own, when it says what it met
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=st.sampled_from([".pt", ".safetensors"]))
def test_damaged_files_load_or_are_refused(tmp_path, data, suffix):
    path = tmp_path / f"flow{suffix}"
    tensors = {"a": torch.arange(40.0), "b": torch.ones(3, 3)}
    if suffix == ".pt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 8))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        loaded = load_weights(path)
    except CheckpointError:
        return
    assert all(isinstance(value, torch.Tensor) for value in loaded.values())


def test_a_compressed_archive_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member))
    with pytest.raises(CheckpointError, match="compressed"):
        load_weights(tmp_path / "packed.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "holds a list"),
        ({"model": {"a": torch.ones(1)}}, "dict under 'model'"),
        ({3: torch.ones(1)}, "under '3'"),
        ({"note": "hello", "a": torch.ones(1)}, "str under 'note'"),
        ({"epoch": 1}, "no tensors"),
        ({"a": torch.ones(1).expand(10**9)}, "larger than what the file stores"),
        ({"a": torch.eye(3).to_sparse()}, "plain numbers"),
        ({"a": torch.ones(3, dtype=torch.complex64)}, "plain numbers"),
    ],
)
def test_only_a_flat_dictionary_of_plain_tensors_is_taken(tmp_path, content, message):
    path = tmp_path / "llm.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_weights(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_number_is_found(dtype, bad):
    good = {"a": torch.ones(5, dtype=dtype), "n": torch.arange(3), "e": torch.ones(0)}
    assert first_not_finite(good) is None
    require_finite(good, "flow.pt")
    spoiled = good | {"b": torch.ones(100, dtype=dtype).index_fill_(0, torch.tensor([77]), bad)}
    assert first_not_finite(spoiled) == "b"
    with pytest.raises(CheckpointError, match=r"flow\.pt holds NaN or infinity \(first in b\)"):
        require_finite(spoiled, "flow.pt")
