import pytest
import torch

from light_tts.errors import CheckpointError
from light_tts.models import random_weights
from light_tts.models.manifests import published_shapes
from light_tts.models.model_config import read_model_config
from light_tts.models.model_dir import ModelDirectory
from light_tts.models.random_weights import make_random, random_state


@pytest.fixture
def small_files(monkeypatch):
    """The published keys with every axis cut to 8, so that a whole directory is written in a moment."""

    def cut(family_name, component):
        return {key: tuple(min(n, 8) for n in shape) for key, shape in published_shapes(family_name, component).items()}

    monkeypatch.setattr(random_weights, "published_shapes", cut)


@pytest.mark.parametrize("family", ["cosyvoice2", "cosyvoice3"])
def test_a_random_directory_opens_with_the_published_values(tmp_path, small_files, family):
    lines = []
    make_random(tmp_path / "model", family, dtype="float16", progress=lines.append)
    assert [line.partition(":")[0] for line in lines] == ["llm.pt", "flow.pt", "hift.pt", "spk2info.pt"]
    directory = ModelDirectory.open(tmp_path / "model")
    assert directory.family.name == family
    assert directory.backbone["vocab_size"] == 151936
    assert directory.sampling.top_p == 0.8
    assert not directory.accepts_prompt_audio
    assert max(directory.special_token_ids.values()) < 151936
    assert "random" in (tmp_path / "model" / "README.md").read_text().lower()
    for component in ("llm", "flow", "hift"):
        state = torch.load(tmp_path / "model" / f"{component}.pt", weights_only=True)
        assert list(state) == list(published_shapes(family, component))
        assert {tensor.dtype for tensor in state.values()} == {torch.float16}


def test_the_voice_is_complete(tmp_path, small_files):
    make_random(tmp_path, "cosyvoice3", dtype="float16")
    voice = torch.load(tmp_path / "spk2info.pt", weights_only=True)["random"]
    assert voice["flow_prompt_speech_token"].shape == (1, 75)
    assert voice["prompt_speech_feat"].shape == (1, 150, 80)
    assert voice["embedding"].shape == (1, 192)
    assert int(voice["prompt_text"][0, 0]) == ModelDirectory.open(tmp_path).special_token_ids["<|endofprompt|>"]


@pytest.mark.parametrize("family", ["cosyvoice2", "cosyvoice3"])
def test_networks_of_the_published_sizes_take_the_vocoder(tmp_path, family, monkeypatch):
    """The smallest of the three files at its real size, through the network's strict loading."""
    real = published_shapes

    def only_hift_is_real(family_name, component):
        shapes = real(family_name, component)
        return shapes if component == "hift" else {key: (1,) * len(shape) for key, shape in shapes.items()}

    monkeypatch.setattr(random_weights, "published_shapes", only_hift_is_real)
    make_random(tmp_path, family)
    net = ModelDirectory.open(tmp_path).load_vocoder()
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())


def test_the_same_seed_gives_the_same_numbers():
    shapes = {"a.weight": (4, 4), "b.weight": (4, 4), "norm.weight": (4,)}
    first, again, other = (random_state(shapes, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in shapes)
    assert not torch.equal(first["a.weight"], other["a.weight"])
    assert not torch.equal(first["a.weight"], first["b.weight"])
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    random_state(shapes)
    assert torch.equal(torch.rand(1), expected), "the global generator is left alone"


def test_the_text_head_shares_the_text_table():
    shapes = {"llm.model.model.embed_tokens.weight": (40, 8), "llm.model.lm_head.weight": (40, 8)}
    table, head = random_state(shapes).values()
    assert table.data_ptr() == head.data_ptr()


def test_matrices_keep_the_scale_of_what_goes_through_them():
    state = random_state({"x.weight": (256, 1024), "conv.weight": (64, 128, 7), "norm1.weight": (512,)})
    out = torch.nn.functional.linear(torch.randn(32, 1024), state["x.weight"])
    assert 0.8 < float(out.std()) < 1.2
    assert 0.9 < float(state["norm1.weight"].mean()) < 1.1


def test_directories_with_files_and_unknown_families_are_left_alone(tmp_path):
    (tmp_path / "precious").write_text("keep me")
    with pytest.raises(CheckpointError, match="not an empty directory"):
        make_random(tmp_path, "cosyvoice2")
    with pytest.raises(CheckpointError, match="there are cosyvoice2, cosyvoice3"):
        make_random(tmp_path / "new", "cosyvoice9")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("family", ["cosyvoice2", "cosyvoice3"])
def test_the_yaml_agrees_with_the_published_shapes(tmp_path, small_files, family):
    make_random(tmp_path, family, dtype="float16")
    directory = ModelDirectory.open(tmp_path)
    values = read_model_config(directory.config, directory.family)
    flow, hift = published_shapes(family, "flow"), published_shapes(family, "hift")
    assert flow["input_embedding.weight"] == (values.num_codes, values.flow["input_size"])
    assert hift["conv_pre.bias"] == (values.hift["base_channels"],)
    assert values.chunk_tokens == 25
