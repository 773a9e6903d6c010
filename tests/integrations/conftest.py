"""Trainers of TRL for the tests of the integration."""

import pytest


@pytest.fixture
def make(language_model, tmp_path):
    """A function (trainer class, settings) -> a trainer on a fresh copy of a tiny model."""
    from tests.integrations.trainers import maker  # needs trl, which not everyone has

    return maker(language_model, tmp_path)
