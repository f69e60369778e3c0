from dataclasses import replace
from pathlib import Path

from light_tts.frontdoor.start_sheet import StartSheet, from_values, to_values
from light_tts.settings import FrontendSettings, ServerSettings, Settings
from light_tts.settings_spec import setting_specs


def test_settings_arrive_as_they_were():
    settings = Settings(
        frontend=replace(FrontendSettings(), voices_dir=Path("/a b/c"), comma_split=True),
        server=replace(ServerSettings(), api_key=("k1", "k,2"), cpu_affinity="0-3", drain_timeout_s=0.5),
    )
    assert from_values(to_values(settings)) == settings
    assert from_values(to_values(Settings())) == Settings()
    assert set(to_values(settings)) == set(setting_specs())


def test_the_environment_does_not_change_what_was_sent(monkeypatch):
    monkeypatch.setenv("LIGHT_TTS_PORT", "1234")
    assert from_values(to_values(Settings())).server.port == 8080


def test_a_sheet_is_one_line():
    line = StartSheet({"log_text": "a\nb"}, "/tmp/x", 3).to_line()
    assert line.count(b"\n") == 1
