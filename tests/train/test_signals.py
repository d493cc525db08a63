import os
import signal
import threading

import pytest

from vlp.train.signals import STOP_SIGNALS, StopFlag


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_only_raises_the_flag(number: signal.Signals) -> None:
    with StopFlag().listening() as flag:
        assert not flag
        os.kill(os.getpid(), number)
        assert flag
        assert flag.name == number.name


def test_a_second_interrupt_is_taken_at_its_word() -> None:
    with StopFlag().listening() as flag:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert flag.name == "SIGINT"


def test_an_interrupt_after_a_notice_does_not_cut_the_step() -> None:
    with StopFlag().listening() as flag:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert flag.name == "SIGTERM"


def test_earlier_handlers_come_back_even_if_someone_replaced_ours() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with StopFlag().listening() as flag:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        flag.attach()
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_another_thread_may_train_without_handlers() -> None:
    seen: list[bool] = []

    def work() -> None:
        with StopFlag().listening() as flag:
            seen.append(bool(flag))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
