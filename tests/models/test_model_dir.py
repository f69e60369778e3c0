import json
import os
from pathlib import Path

import pytest
import torch

from light_tts.assets import builtin_model_dir
from light_tts.errors import CheckpointError, UnknownModel
from light_tts.models.family import families
from light_tts.models.manifests import published_shapes
from light_tts.models.model_dir import ModelDirectory
from light_tts.models.random_weights import random_state
from light_tts.models.vocabulary import TOKENIZER_FILES
from light_tts.verify.model_dir_checks import check_model_dir
from light_tts.verify.report import Ledger

GOLDEN = Path(__file__).parents[1] / "golden" / "model_dir"


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        ModelDirectory.open(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(path: Path, *replacements: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_recorded_readings_are_reproduced():
    ledger = Ledger(GOLDEN)
    check_model_dir(ledger)
    rows = ledger.finish()
    assert len(rows) > 50
    assert [row for row in rows if not row.ok] == []


def test_the_builtin_model_opens_as_any_other():
    directory = ModelDirectory.open(builtin_model_dir())
    assert (directory.name, directory.family.name, directory.sample_rate_hz) == ("builtin", "cosyvoice2", 24000)
    assert (directory.chunk_tokens, directory.token_mel_ratio, directory.lookahead_tokens) == (25, 2, 3)
    assert directory.mix_ratio == (5, 15)
    assert directory.sampling.top_p == 0.5
    assert directory.prompt_mel_fmax_hz == 8000.0
    assert directory.accepts_prompt_audio
    assert directory.llm_path == builtin_model_dir() / "llm.pt"
    ids = directory.speech_ids()
    assert (ids.num_codes, ids.eos, ids.fill, ids.stop_ids) == (6561, 6561, 6563, range(6561, 6564))
    assert (ids.sos_row, ids.task_row, ids.speech_row0) == (7040, 7041, 7042)
    assert ids.end_of_prompt == 7003


def test_the_builtin_networks_load():
    directory = ModelDirectory.open(builtin_model_dir())
    directory.load_flow()
    directory.load_vocoder()
    directory.load_llm("default", dtype=torch.float32)


def test_the_published_ids_follow_from_the_published_shapes():
    expected = {  # family: eos, fill, sos row, task row, speech row 0, head size
        "cosyvoice2": (6561, 6563, 151936, 151937, 151938, 6564),
        "cosyvoice3": (6562, 6564, 158497, 158499, 151936, 6761),
    }
    for family in families():
        shapes = published_shapes(family.name, "llm")
        ids = family.speech_ids(shapes, num_codes=6561, end_of_prompt=151646)
        assert (ids.eos, ids.fill, ids.sos_row, ids.task_row, ids.speech_row0, ids.head_size) == expected[family.name]
        assert len(ids.stop_ids) == family.num_control_ids
        assert (ids.needs_end_of_prompt, bool(ids.silent_codes)) == (family.generation == 3,) * 2
        with pytest.raises(CheckpointError, match="declares 125 speech codes"):
            family.speech_ids(shapes, num_codes=125, end_of_prompt=151646)


def test_places_that_are_no_model_directory(tmp_path):
    refused(tmp_path / "nowhere", "no directory")
    refused(tmp_path, r"no cosyvoice2\.yaml or cosyvoice3\.yaml")
    (tmp_path / "cosyvoice.yaml").touch()
    refused(tmp_path, "first generation")


def test_two_versions_in_one_directory_are_refused(copied_model):
    (copied_model / "cosyvoice3.yaml").touch()
    refused(copied_model, r"cosyvoice2\.yaml and cosyvoice3\.yaml")


def test_one_sentence_names_everything_that_is_missing(copied_model):
    for name in ("llm.pt", "hift.pt", "CosyVoice-BlankEN/merges.txt"):
        (copied_model / name).unlink()
    message = refused(copied_model, "lacks")
    for name in ("llm.pt (or llm.safetensors)", "hift.pt (or hift.safetensors)", "CosyVoice-BlankEN/merges.txt"):
        assert name in message
    assert "flow.pt" not in message


def test_files_for_prompt_audio_and_voices_may_be_missing(copied_model):
    for name in ("campplus.onnx", "spk2info.pt", "CosyVoice-BlankEN/model.safetensors"):
        (copied_model / name).unlink()
    directory = ModelDirectory.open(copied_model)
    assert directory.speaker_encoder_path is None
    assert directory.speaker_registry_path is None
    assert directory.speech_tokenizer_path is not None
    assert not directory.accepts_prompt_audio


def test_an_old_copy_of_the_yaml_gets_the_published_values(copied_model):
    yaml = copied_model / "cosyvoice2.yaml"
    lines = yaml.read_text().splitlines(keepends=True)
    gone = ("token_frame_rate:", "token_mel_ratio:", "chunk_size:", "    mix_ratio:", "num_decoding_left_chunks:")
    text = "".join(line for line in lines if not line.startswith(gone))
    for old, new in (
        ("!ref <chunk_size> * <token_mel_ratio>", "50"),
        ("!ref <chunk_size>", "25"),
        ("!ref <token_frame_rate>", "25"),
        ("!ref <token_mel_ratio>", "2"),
        ("!ref <num_decoding_left_chunks>", "-1"),
    ):
        text = text.replace(old, new)
    yaml.write_text(text)
    directory = ModelDirectory.open(copied_model)
    assert (directory.chunk_tokens, directory.token_mel_ratio, directory.mix_ratio) == (25, 2, (5, 15))


def test_values_of_the_file_win(copied_model):
    edit(
        copied_model / "cosyvoice2.yaml",
        ("chunk_size: 25", "chunk_size: 50"),
        ("[5, 15]", "[4, 12]"),
        ("pre_lookahead_len: 3", "pre_lookahead_len: 4"),
        ("fmax: 8000", "fmax: null"),
    )
    directory = ModelDirectory.open(copied_model)
    assert (directory.chunk_tokens, directory.mix_ratio, directory.lookahead_tokens) == (50, (4, 12), 4)
    assert directory.prompt_mel_fmax_hz is None
    assert directory.values.flow["decoder"]["estimator"]["static_chunk_size"] == 100


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sample_rate: 24000", "sample_rate: 22050", "sample_rate is 22050; only 24000"),
        ("token_mel_ratio: 2", "token_mel_ratio: 3", "token_mel_ratio is 3"),
        ("top_k: 25", "top_k: 0", "top_k is 0"),
        ("top_p: 0.5", "top_p: high", "top_p is 'high'"),
        ("mix_ratio: [5, 15]", "mix_ratio: 5", "mix_ratio is 5"),
        ("chunk_size: 25", "chunk_size: 2.5", "chunk_size is 2.5"),
        (".Qwen2LM", ".CosyVoice3LM", "builds its llm from CosyVoice3LM, expected Qwen2LM"),
        (".HiFTGenerator", ".CausalHiFTGenerator", "builds its hift"),
        ("hift: !new:cosyvoice.hifigan.generator.HiFTGenerator", "hift:", "builds its hift from no class"),
    ],
)
def test_wrong_values_are_named(copied_model, old, new, message):
    edit(copied_model / "cosyvoice2.yaml", (old, new))
    refused(copied_model, message)


def test_a_missing_network_value_is_named_when_the_network_is_built(copied_model):
    edit(copied_model / "cosyvoice2.yaml", ("        attention_heads: 3\n", ""))
    with pytest.raises(CheckpointError, match=r"section flow .*attention_heads"):
        ModelDirectory.open(copied_model).load_flow()


def test_the_backbone_must_fit_the_weights(copied_model):
    edit_json(copied_model / "CosyVoice-BlankEN" / "config.json", hidden_size=512, num_hidden_layers=24, head_dim=64)
    directory = ModelDirectory.open(copied_model)
    with pytest.raises(CheckpointError, match=r"hidden_size 512 \(the weights have 384\), num_hidden_layers 24 "):
        directory.load_llm()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "x"}, "hidden_size is 'x'"),
        ({"num_key_value_heads": 4}, "multiple"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
    ],
)
def test_a_backbone_that_cannot_be_is_refused(copied_model, changes, message):
    edit_json(copied_model / "CosyVoice-BlankEN" / "config.json", **changes)
    refused(copied_model, message)


def test_the_vocabulary_must_fit_the_text_rows(copied_model):
    edit_json(copied_model / "CosyVoice-BlankEN" / "vocab.json", new_token=7035)
    with pytest.raises(CheckpointError, match=r"reaches id 70.., but the language model has 7040"):
        ModelDirectory.open(copied_model).speech_ids()


@pytest.mark.parametrize("component", ["llm", "flow", "hift"])
def test_a_file_of_another_family_is_called_by_name(copied_model, component):
    shapes = {key: (1,) * len(shape) for key, shape in published_shapes("cosyvoice3", component).items()}
    shapes["f0_predictor.condnet.0.parametrizations.weight.original1"] = (1, 1, 4)
    path = copied_model / f"{component}.pt"
    path.unlink()
    torch.save(random_state(shapes), path)
    directory = ModelDirectory.open(copied_model)
    load = {"llm": directory.load_llm, "flow": directory.load_flow, "hift": directory.load_vocoder}[component]
    others = ", ".join(f"{name}.pt" for name in ("llm", "flow", "hift") if name != component)
    expected = rf"cosyvoice2\.yaml, {others}: cosyvoice2; {component}\.pt: cosyvoice3".replace(".pt", r"\.pt")
    with pytest.raises(CheckpointError, match=expected.replace(r"\\.", r"\.")):
        load()


@pytest.mark.parametrize("component", ["llm", "flow", "hift"])
@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape", "nan"])
def test_a_spoiled_weight_file_is_refused_with_the_key(copied_model, component, fault):
    key = {
        "llm": "llm.model.model.layers.3.mlp.up_proj.weight",
        "flow": "encoder.encoders.1.feed_forward.w_1.weight",
        "hift": "conv_post.bias",
    }[component]
    path = copied_model / f"{component}.pt"
    state = dict(torch.load(path, weights_only=True))
    if fault == "missing":
        del state[key]
    elif fault == "unexpected":
        key = "surplus.weight"
        state[key] = torch.ones(3)
    elif fault == "shape":
        state[key] = state[key][:-1].clone()
    else:
        state[key] = state[key].clone().fill_(float("nan"))
    path.unlink()
    torch.save(state, path)
    directory = ModelDirectory.open(copied_model)
    load = {"llm": directory.load_llm, "flow": directory.load_flow, "hift": directory.load_vocoder}[component]
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        load()


def test_safetensors_stand_in_for_pt(copied_model):
    from safetensors.torch import save_file

    state = torch.load(copied_model / "hift.pt", weights_only=True)
    (copied_model / "hift.pt").unlink()
    save_file(state, copied_model / "hift.safetensors")
    ModelDirectory.open(copied_model).load_vocoder()


def test_several_styles(copied_model):
    other = copied_model / "styles" / "llm1.pt"
    other.parent.mkdir()
    os.symlink(builtin_model_dir() / "llm.pt", other)
    entries = [
        {"style_name": "calm", "llm_path": "styles/llm1.pt"},
        {"style_name": "old", "gpt_model_path": str(builtin_model_dir() / "llm.pt"), "prompt_cache_token_ids": [1]},
    ]
    (copied_model / "llm.pt").unlink()
    (copied_model / "style_config.json").write_text(json.dumps({"lora_info": entries}))
    with pytest.raises(CheckpointError, match=r"llm\.pt for the style 'old', which is outside the model directory"):
        ModelDirectory.open(copied_model)
    directory = ModelDirectory.open(copied_model, styles_outside=True)
    assert list(directory.styles) == ["calm", "old"]
    assert directory.llm_path == other
    assert directory.speech_ids("old") == directory.speech_ids("default")
    with pytest.raises(UnknownModel, match="no model 'loud' here; available: calm, old"):
        directory.load_llm("loud")
    other.unlink()
    entries[1]["gpt_model_path"] = str(copied_model / "styles" / "llm1.pt")  # absolute, but inside
    (copied_model / "style_config.json").write_text(json.dumps({"lora_info": entries}))
    refused(copied_model, r"llm1\.pt \(style 'calm'\)")


def test_a_style_may_not_leave_the_directory_by_dots(copied_model):
    content = {"lora_info": [{"style_name": "a", "llm_path": "x/../../llm.pt"}]}
    (copied_model / "style_config.json").write_text(json.dumps(content))
    refused(copied_model, "outside the model directory")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "cannot be read as JSON"),
        ("[]", "holds a list"),
        ('{"lora_info": []}', "no list"),
        ('{"lora_info": [{"style_name": "a"}]}', "expected style_name and llm_path"),
        ('{"lora_info": [{"style_name": "a", "llm_path": "x"}, {"style_name": "a", "llm_path": "y"}]}', "twice"),
    ],
)
def test_a_malformed_style_list_is_refused(copied_model, content, message):
    (copied_model / "style_config.json").write_text(content)
    refused(copied_model, message)


def test_names(copied_model, tmp_path):
    assert ModelDirectory.open(copied_model).name == "model"
    cached = tmp_path / "models--Org--CosyVoice2-0.5B" / "snapshots" / "0123abcd"
    cached.parent.mkdir(parents=True)
    copied_model.rename(cached)
    assert ModelDirectory.open(cached).name == "CosyVoice2-0.5B"


def test_opening_writes_nothing_and_needs_no_right_to(copied_model):
    before = sorted(path for path in copied_model.rglob("*"))
    for path in (copied_model / "CosyVoice-BlankEN", copied_model):
        path.chmod(0o555)
    try:
        ModelDirectory.open(copied_model).load_vocoder()
        assert sorted(path for path in copied_model.rglob("*")) == before
    finally:
        for path in (copied_model, copied_model / "CosyVoice-BlankEN"):
            path.chmod(0o755)


def test_every_tokenizer_file_is_needed(copied_model):
    for name in TOKENIZER_FILES:
        (copied_model / "CosyVoice-BlankEN" / name).rename(copied_model / "aside")
        refused(copied_model, f"lacks CosyVoice-BlankEN/{name}")
        (copied_model / "aside").rename(copied_model / "CosyVoice-BlankEN" / name)
