"""The kernel under test is what it is declared to be: no layer more, none less."""

from collections.abc import Callable

from sandbox import Sandbox


def _nothing() -> None:
    return None


def test_exactly_the_declared_layers_are_missing(
    make_sandbox: Callable[..., Sandbox], lacks: frozenset[str]
) -> None:
    with make_sandbox() as sandbox:
        outcome = sandbox.call(_nothing)
    assert outcome.status == "ok"
    assert set(outcome.isolation.missing) == lacks
