"""Which matrix gets which format: the setting, the YAML, and every mistake in it."""

import pytest

from light_tts.errors import ConfigError
from light_tts.llm.weight_plan import PUBLISHED_FORMATS, WeightPlan, plan_weights, read_weight_plan
from light_tts.settings import LLMSettings


def read(tmp_path, text):
    path = tmp_path / "quant_config.yaml"
    path.write_text(text)
    return read_weight_plan(path)


def test_the_setting_alone_means_every_matrix():
    assert plan_weights(LLMSettings()).keeps_all
    plan = plan_weights(LLMSettings(quant_type="int8"))
    assert not plan.keeps_all
    assert {plan.format_of(layer, name) for layer in (0, 23) for name in ("qkv", "output", "gate_up", "down")} == {
        "int8"
    }


def test_a_file_names_exceptions_and_the_last_one_counts(tmp_path):
    plan = read(
        tmp_path,
        """
quant_type: triton-int8weight
mix_bits:
  - name: down_proj
    quant_type: none
    layer_nums: [0, 3]
  - {name: o_proj, quant_type: triton_int4weight}
  - {name: o_proj, quant_type: fp8, layer_nums: [2]}
""",
    )
    plan.check_layers(4)
    assert [plan.format_of(layer, "down") for layer in range(4)] == ["none", "int8", "int8", "none"]
    assert [plan.format_of(layer, "output") for layer in range(4)] == ["int4", "int4", "fp8", "int4"]
    assert plan.format_of(0, "qkv") == plan.format_of(0, "gate_up") == "int8"


def test_a_part_of_a_matrix_stands_for_the_whole(tmp_path):
    plan = read(tmp_path, "quant_type: int8\nmix_bits:\n  - {name: q_proj, quant_type: none}\n")
    assert plan.format_of(0, "qkv") == "none"
    both = "quant_type: int8\nmix_bits:\n  - {name: q_proj, quant_type: fp8}\n  - {name: kv_proj, quant_type: fp8}\n"
    assert read(tmp_path, both).format_of(1, "qkv") == "fp8"


def test_a_file_may_quantise_nothing_or_everything(tmp_path):
    assert read(tmp_path, "quant_type: none\n").keeps_all
    assert read(tmp_path, "quant_type: int8\nmix_bits:\n") == WeightPlan("int8")
    assert not read(tmp_path, "quant_type: none\nmix_bits: [{name: down_proj, quant_type: int4}]").keeps_all


@pytest.mark.parametrize(("word", "kind"), PUBLISHED_FORMATS.items())
def test_words_of_other_servers_are_understood_in_either_spelling(tmp_path, word, kind):
    assert read(tmp_path, f"quant_type: {word}\n").default == kind
    assert read(tmp_path, f"quant_type: {word.replace('-', '_').upper()}\n").default == kind


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold quant_type and mix_bits, not a NoneType"),
        ("- 1", "must hold quant_type and mix_bits, not a list"),
        ("quant_type: [", "is not valid YAML"),
        ("quant_type: !!python/object/apply:os.system [x]", "is not valid YAML"),
        ("mix_bits: []", "'quant_type' is missing"),
        ("quant_type: int5", "quant_type: 'int5' is not allowed; use one of none, int8, int4, fp8; did you mean"),
        ("quant_type: int8\nmixbits: []", "there is no key 'mixbits'; did you mean 'mix_bits'?"),
        ("quant_type: int8\nmix_bits: down_proj", "mix_bits must be a list"),
        ("quant_type: int8\nmix_bits: [down_proj]", "entry 1 of mix_bits is 'down_proj', expected"),
        (
            "quant_type: int8\nmix_bits: [{name: down_prj, quant_type: none}]",
            "entry 1 of mix_bits: there is no layer 'down_prj'; use one of qkv_proj, .*; did you mean 'down_proj'?",
        ),
        ("quant_type: int8\nmix_bits: [{quant_type: none}]", "there is no layer 'None'"),
        ("quant_type: int8\nmix_bits: [{name: o_proj}]", "'quant_type' is missing; use none to leave o_proj"),
        ("quant_type: int8\nmix_bits: [{name: o_proj, quant_type: x}]", "quant_type: 'x' is not allowed"),
        ("quant_type: int8\nmix_bits: [{name: o_proj, quant_type: none, layers: [1]}]", "there is no key 'layers'"),
        (
            "quant_type: int8\nmix_bits: [{name: o_proj, quant_type: none, layer_nums: 3}]",
            "layer_nums is 3, expected a list",
        ),
        (
            "quant_type: int8\nmix_bits: [{name: o_proj, quant_type: none, layer_nums: [-1]}]",
            "layer_nums is .-1., expected a list",
        ),
        (
            "quant_type: int8\nmix_bits: [{name: q_proj, quant_type: none}, {name: k_proj, quant_type: int4}]",
            "q_proj is none and k_proj is int4, but they are parts of one matrix",
        ),
    ],
)
def test_every_mistake_gets_one_sentence(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert "quant_config.yaml" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"custom_cfg_path: cannot read .*none\.yaml: No such file"):
        plan_weights(LLMSettings(quant_type="custom", custom_cfg_path=tmp_path / "none.yaml"))


def test_a_layer_that_the_model_lacks_is_named(tmp_path):
    plan = read(tmp_path, "quant_type: int8\nmix_bits: [{name: o_proj, quant_type: none, layer_nums: [3, 24]}]")
    plan.check_layers(25)
    with pytest.raises(ConfigError, match="o_proj has layer_nums 24, but the model's layers are numbered 0 to 23"):
        plan.check_layers(24)
