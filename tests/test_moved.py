"""Modules that have moved are found under the names that saved models hold."""

import importlib
import pickle

import pytest

import spikeloop


@pytest.mark.parametrize(("before", "now"), spikeloop._MOVED.items())
def test_a_moved_module_is_the_same_object_under_both_names(before, now):
    module = importlib.import_module(now)
    assert importlib.import_module(before) is module
    assert module.__name__ == module.__spec__.name == now


def test_a_pickle_of_before_finds_its_class():
    from spikeloop.spiking import WinnerTakeAllParameters

    assert pickle.loads(b"cspikeloop.spiking.winner_take_all\nWinnerTakeAllParameters\n.") is WinnerTakeAllParameters
