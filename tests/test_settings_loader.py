from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_tts.errors import ConfigError
from light_tts.settings import Settings
from light_tts.settings_loader import load_settings, preset_names
from light_tts.settings_spec import setting_specs


def load(flags: dict[str, object] | None = None, **sources: object) -> Settings:
    sources.setdefault("environment", {})
    return load_settings(flags, **sources).settings  # type: ignore[arg-type]


def test_without_sources_the_defaults_of_the_tree_hold() -> None:
    assert load() == Settings()


def test_every_setting_has_a_unique_name_and_an_explanation() -> None:
    specs = setting_specs()
    assert len(specs) == sum(len(fields(type(getattr(Settings(), b.name)))) for b in fields(Settings))
    assert all(spec.help for spec in specs.values())
    # A setting without a range or a choice would take any number.
    assert [s.name for s in specs.values() if s.base in (int, float) and s.ge is None] == []


def test_later_sources_win_and_every_value_knows_its_origin(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("max_batch = 5\n[llm]\nmax-running = 6\n[server]\nport = 1111\nhost = 'a'\n")
    environment = {"LIGHT_TTS_PORT": "2222", "LIGHT_TTS_HOST": "b", "LIGHT_TTS_KEEP_ALIVE_S": ""}
    loaded = load_settings({"host": "c"}, preset="cpu", config_file=config, environment=environment)
    settings = loaded.settings
    assert (settings.model.device, settings.llm.max_running, settings.acoustic.max_batch) == ("cpu", 6, 5)
    assert (settings.server.port, settings.server.host, settings.server.keep_alive_s) == (2222, "c", 5)
    origins = {name: loaded.origins[name] for name in ("device", "max_running", "port", "host", "keep_alive_s")}
    assert origins == {
        "device": "preset cpu",
        "max_running": f"file {config}",
        "port": "environment LIGHT_TTS_PORT",
        "host": "flag --host",
        "keep_alive_s": "default",
    }


def test_the_calling_commands_base_is_below_everything() -> None:
    assert load(base={"max_running": 3}).llm.max_running == 3
    assert load({"max_running": "4"}, base={"max_running": 3}).llm.max_running == 4


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".toml", 'prefix_cache = false\ncors_origins = ["x", "y"]\nmodel_dir = "m"\n[frontend]\nmax_prompt_s = 20\n'),
        (".yaml", "prefix_cache: false\ncors_origins: [x, y]\nmodel_dir: m\nfrontend: {max_prompt_s: 20}\n"),
        (
            ".json",
            '{"prefix-cache": false, "cors_origins": "x,y", "model_dir": "m", "frontend": {"max_prompt_s": 20}}',
        ),
    ],
)
def test_three_file_formats_say_the_same(tmp_path: Path, suffix: str, text: str) -> None:
    path = tmp_path / f"settings{suffix}"
    path.write_text(text)
    settings = load(config_file=path)
    assert settings.llm.prefix_cache is False
    assert settings.server.cors_origins == ("x", "y")
    assert settings.model.model_dir == Path("m")
    assert settings.frontend.max_prompt_s == 20.0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "max_runing = 1", "there is no setting 'max_runing'; did you mean 'max_running'?"),
        ("a.toml", "[acoustic]\nport = 1", "[acoustic]: there is no setting 'port'"),
        ("a.toml", "port = true", "port: True is not allowed; use a whole number from 1 to 65535"),
        ("a.toml", "port = 1.5", "port: 1.5 is not allowed"),
        ("a.toml", "port = 1\n[server]\nport = 2", "'port' is given twice"),
        ("a.toml", "port = = 1", "is not valid TOML"),
        ("a.yaml", "port: [1", "is not valid YAML"),
        ("a.yaml", "port: !!python/object/apply:os.system [x]", "is not valid YAML"),
        ("a.yaml", "- 1", "must hold a table of settings, not a list"),
        ("a.json", "{", "is not valid JSON"),
        ("a.ini", "", "ends in '.ini'; use a file that ends in .toml"),
    ],
)
def test_a_bad_file_gets_one_line_that_names_it(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(config_file=path)
    assert message in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none.toml: No such file"):
        load(config_file=tmp_path / "none.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not a UTF-8"):
        load(config_file=tmp_path / "b.toml")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"device": "cudda"}, "--device: 'cudda' is not allowed; use one of auto, cpu, cuda; did you mean 'cuda'?"),
        ({"port": "70000"}, "--port: '70000' is not allowed; use a whole number from 1 to 65535"),
        ({"log_text": "treu"}, "--log-text: 'treu' is not allowed; use true or false"),
        ({"max_prompt_s": "nan"}, "--max-prompt-s: 'nan' is not allowed; use a number from 1 to 30"),
        ({"request_timeout_s": "inf"}, "--request-timeout-s: 'inf' is not allowed; use a number, at least 1"),
        ({"port": ""}, "--port: '' is not allowed"),
        ({"host": " "}, "--host: ' ' is not allowed; use text"),
        ({"first_hop_tokens": "100", "max_hop_tokens": "50"}, "first_hop_tokens (100, from flag --first-hop-tokens)"),
        ({"max_total_tokens": "512"}, "max_request_tokens (8192, from default) is above max_total_tokens (512"),
        ({"quant_type": "int3"}, "--quant-type: 'int3' is not allowed; use one of none, int8, int4, fp8, custom"),
        ({"quant_type": "custom"}, "quant_type custom (from flag --quant-type) needs custom_cfg_path"),
        ({"custom_cfg_path": "q.yaml"}, "custom_cfg_path (q.yaml, from flag --custom-cfg-path) is read only with"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(flags: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(flags)
    assert message in str(caught.value)


def test_an_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'cpuu' is not a preset; use one of .*cpu.* did you mean 'cpu'"):
        load(preset="cpuu")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_changes_something(name: str) -> None:
    assert load(preset=name) != Settings()


def test_preset_and_file_may_come_from_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"port": 99}')
    settings = load(environment={"LIGHT_TTS_PRESET": "cpu", "LIGHT_TTS_CONFIG": str(path)})
    assert (settings.model.device, settings.server.port) == ("cpu", 99)


def test_an_environment_variable_that_is_no_setting_is_reported() -> None:
    loaded = load_settings(environment={"LIGHT_TTS_PROT": "1", "OTHER": "1"})
    assert loaded.warnings == (
        "environment variable LIGHT_TTS_PROT is not a setting and has no effect; did you mean 'port'?",
    )


def test_the_description_is_json_and_hides_keys() -> None:
    loaded = load_settings({"api_key": "sesame,open", "admin_key": "sesame", "model_dir": "~/m"}, environment={})
    text = json.dumps(loaded.describe())
    assert "sesame" not in text
    assert loaded.settings.server.api_key == ("sesame", "open")
    assert json.loads(text)["server"]["api_key"] == {"value": "<2 hidden>", "origin": "flag --api-key"}
    assert str(Path("~/m").expanduser()) in text


@pytest.mark.parametrize("pair", ["nova", "=en_male", "nova="])
def test_an_alias_needs_both_names(pair: str) -> None:
    with pytest.raises(ConfigError, match="NAME=VOICE"):
        load({"voice_aliases": f"alloy=en_female,{pair}"})
    assert load({"voice_aliases": "alloy=en_female"}).server.voice_aliases == ("alloy=en_female",)


@pytest.mark.parametrize("word", ["true", "TRUE", "1", "yes", "On"])
def test_words_for_true(word: str) -> None:
    assert load({"log_text": word}).server.log_text is True


@pytest.mark.parametrize("word", ["false", "False", "0", "no", "OFF"])
def test_words_for_false(word: str) -> None:
    assert load({"prefix_cache": word}).llm.prefix_cache is False


def test_none_is_a_word_where_a_setting_is_optional() -> None:
    assert load({"default_voice": "none", "model_dir": None}).server.default_voice is None


@given(
    st.sampled_from(sorted(setting_specs())),
    st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.lists(st.text())),
)
def test_any_value_is_taken_or_refused_with_one_sentence(name: str, value: object) -> None:
    spec = setting_specs()[name]
    parsed, refusal = None, None
    try:
        parsed = spec.parse(value, spec.flag)
    except ConfigError as error:
        refusal = str(error)
    if refusal is not None:
        assert refusal.startswith(spec.flag)
        assert "\n" not in refusal
        return
    for item in parsed if spec.many else [parsed]:
        assert (item is None and spec.optional) or isinstance(item, spec.base)
        if isinstance(item, int | float) and not isinstance(item, bool):
            assert spec.ge is None or item >= spec.ge
            assert spec.le is None or item <= spec.le


def test_a_home_directory_nobody_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="--model-dir: '~nobody-of-that-name/x' is not allowed"):
        load({"model_dir": "~nobody-of-that-name/x"})


def test_the_log_of_the_start_has_every_setting_and_no_secret() -> None:
    loaded = load_settings({"port": "80", "api_key": "hush", "zmq_mode": "ipc:///tmp/"}, environment={})
    configuration, note = loaded.start_lines()
    assert all(f"{name}=" in configuration for name in setting_specs())
    assert "port=80 (flag --port)" in configuration
    assert "host=127.0.0.1, " in configuration
    assert "hush" not in configuration
    assert note.startswith("--zmq_mode")
