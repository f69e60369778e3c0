import pytest

from light_tts.errors import UnknownVoice
from light_tts.server.voice_aliases import CLOUD_VOICES, VoiceAliases

from .conftest import with_server
from .fake_engine import FakeVoices, voice


@pytest.fixture
def aliases(engine, settings):
    pairs = ("nova=en_male", "narrator=zh_female", "en_male=zh_female", "lost=nobody")
    return VoiceAliases(engine, with_server(settings, voice_aliases=pairs))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("nova", "en_male"),
        ("narrator", "zh_female"),
        ("alloy", "en_female"),
        ("default", "en_female"),
        (None, "en_female"),
        ("en_male", "en_male"),
    ],
)
def test_a_registered_voice_wins_then_a_configured_name_then_the_default(aliases, name, meant):
    assert aliases.resolve(name, "hello", "auto") == meant


@pytest.mark.parametrize(("name", "named"), [("lost", "nobody"), ("bob", "zh_female")])
def test_names_that_lead_nowhere_are_told(aliases, name, named):
    with pytest.raises(UnknownVoice, match=named):
        aliases.resolve(name, "hello", "auto")


def test_only_names_that_can_be_spoken_with_are_offered(aliases, engine, settings):
    assert aliases.names() == [*CLOUD_VOICES, "narrator"]
    engine.voices = FakeVoices(voice("alloy"))
    assert VoiceAliases(engine, settings).names() == [name for name in CLOUD_VOICES if name != "alloy"]
    engine.voices = FakeVoices()
    assert VoiceAliases(engine, settings).names() == []


def test_a_configured_cloud_name_says_which_voice_is_wanted(aliases):
    assert not aliases.means_default("nova")
    assert aliases.means_default("alloy")
    assert not aliases.means_default("en_male")
