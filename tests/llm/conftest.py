"""Tiny models of both generations, loaded once."""

import pytest
import torch

from tests.llm.tiny_llm import MODELS, load_tiny


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_models():
    return {name: load_tiny(name) for name in MODELS}


@pytest.fixture(params=MODELS)
def lm(request, tiny_models):
    return tiny_models[request.param]
