import json
from pathlib import Path

import pytest

from light_tts.errors import CheckpointError
from light_tts.models.family import families, family_of_weights
from light_tts.models.manifests import published_shapes

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("manifest_*.json")), ids=lambda path: path.stem)
def test_keys_and_shapes_are_the_published_ones_in_order(path):
    _, family, component = path.stem.split("_")
    recorded = {key: tuple(shape) for key, (shape, _) in json.loads(path.read_text()).items()}
    assert list(published_shapes(family, component).items()) == list(recorded.items())


@pytest.mark.parametrize("component", ["llm", "flow", "hift"])
def test_each_family_knows_its_own_weights(component):
    for family in families():
        assert family_of_weights(component, published_shapes(family.name, component)) is family
    assert family_of_weights(component, {"other.weight": (3, 3)}) is None


def test_the_classic_spelling_and_the_prefix_of_vocoder_weights_are_known():
    for family in families():
        shapes = {
            f"generator.{key}".replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ): shape
            for key, shape in published_shapes(family.name, "hift").items()
        }
        assert family_of_weights("hift", shapes) is family


def test_an_unknown_family_is_refused():
    with pytest.raises(CheckpointError, match="no model family"):
        published_shapes("cosyvoice9", "llm")
