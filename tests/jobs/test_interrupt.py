"""Ctrl-C: the first is a request, the second is an order."""

import signal
import threading

import pytest

from psn_tutorial.jobs.interrupt import NOTICE, Interrupted, Stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request(number, capfd):
    with Stop() as stop:
        stop.check()
        signal.raise_signal(number)
        assert stop.asked == number
        assert capfd.readouterr().err == NOTICE.decode()
        with pytest.raises(Interrupted) as stopped:
            stop.check()
        assert stopped.value.number == number


def test_the_second_one_stops_at_once():
    with Stop():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt) as stopped:
            signal.raise_signal(signal.SIGINT)
        assert not isinstance(stopped.value, Interrupted)


def test_where_nothing_would_be_lost_the_first_one_stops(capfd):
    with Stop() as stop:
        with pytest.raises(Interrupted), stop.at_once():
            signal.raise_signal(signal.SIGINT)
        assert stop.asked is None and capfd.readouterr().err == ""
        signal.raise_signal(signal.SIGINT)  # outside again: a request
        with pytest.raises(Interrupted), stop.at_once():
            pytest.fail("what is asked for is not begun any more")


def test_the_handlers_before_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ZeroDivisionError), Stop():
        assert signal.getsignal(signal.SIGINT) != before[0]
        1 / 0  # noqa: B018
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_outside_the_main_thread_it_does_nothing():
    failed = []

    def work():
        try:
            with Stop() as stop:
                stop.check()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed


def test_an_interruption_is_a_keyboard_interrupt():
    """So that a notebook shows it as one, and no `except Exception` swallows it."""
    assert issubclass(Interrupted, KeyboardInterrupt) and not issubclass(Interrupted, Exception)
