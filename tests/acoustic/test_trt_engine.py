"""Engines of TensorRT: under which names they are kept. Building one needs TensorRT and a GPU."""

from dataclasses import fields, replace

import pytest

from light_tts.acoustic.trt_engine import EngineKey, digest_of, ensure_engine

KEY = EngineKey("0123", "NVIDIA A10 8.6", "10.9.0", "float16", rows=4, most_frames=1024)


def test_an_engine_is_named_by_everything_it_depends_on(tmp_path):
    paths = {KEY.path_in(tmp_path)}
    for field in fields(EngineKey):
        value = getattr(KEY, field.name)
        paths.add(replace(KEY, **{field.name: value * 2}).path_in(tmp_path))
    assert len(paths) == 1 + len(fields(EngineKey))
    assert replace(KEY).path_in(tmp_path) in paths
    assert KEY.path_in(tmp_path).name.startswith("flow.estimator.float16.")


def test_an_engine_that_is_there_is_not_built_again(tmp_path):
    path = KEY.path_in(tmp_path)
    path.write_bytes(b"plan")
    assert ensure_engine(None, KEY, tmp_path, workspace_bytes=1) == (path, False)


def test_weights_are_told_apart_by_what_is_in_them(tmp_path):
    one, other = tmp_path / "flow.pt", tmp_path / "other.pt"
    one.write_bytes(b"a" * 100_000)
    other.write_bytes(b"a" * 99_999 + b"b")
    assert digest_of(one) != digest_of(other)
    other.write_bytes(one.read_bytes())
    assert digest_of(one) == digest_of(other)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_every_precision_can_be_asked_for(precision, tmp_path):
    assert precision in replace(KEY, precision=precision).path_in(tmp_path).name
