import contextlib
import threading
from collections.abc import Iterator

import pytest
from torch.profiler import record_function

from livetalk.tracing import observe_spans, span


class Listener:
    """Remembers what begins and ends."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.heard.append(f"{name} begins")
        yield
        self.heard.append(f"{name} ends")


def test_spans_are_the_profilers_until_somebody_observes() -> None:
    listener = Listener()
    assert isinstance(span("quiet"), record_function)
    with observe_spans(listener), span("outer"), span("inner"):
        pass
    assert isinstance(span("quiet again"), record_function)
    assert listener.heard == ["outer begins", "inner begins", "inner ends", "outer ends"]


def test_an_error_ends_the_observation() -> None:
    with pytest.raises(KeyError), observe_spans(Listener()):
        raise KeyError
    assert isinstance(span("after"), record_function)


def test_other_threads_are_not_observed() -> None:
    listener = Listener()

    def work() -> None:
        with span("elsewhere"):
            pass

    with observe_spans(listener):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert listener.heard == []
