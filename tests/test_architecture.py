"""The drawing is of the code as it is."""

import pytest

from benchmarks import architecture


def test_every_module_stands_above_all_that_it_imports():
    graph = architecture.imports()
    levels = architecture.heights(graph)
    assert all(levels[name] > levels[below] for name, under in graph.items() for below in under)
    assert levels["main"] == max(levels.values())


def test_the_drawing_names_every_module():
    text = architecture.PICTURE.read_text()
    assert all(f">{name}</text>" in text for name in architecture.imports())


def test_a_circle_is_named():
    with pytest.raises(ValueError, match="a circle of imports: a -> b -> a"):
        architecture.heights({"a": {"b"}, "b": {"a"}})


def test_what_a_chain_implies_is_not_drawn():
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert architecture.reduced(graph) == {"a": {"b"}, "b": {"c"}, "c": set()}
