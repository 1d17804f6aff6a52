"""Ctrl-C and SIGTERM: one handler, with and without a reaction of its own."""

import os
import signal
import time

import pytest

from train.cluster import signals
from train.cluster.signals import StopSignal


def send(number):
  os.kill(os.getpid(), number)  # the main thread handles it before the next line


def test_the_first_signal_is_noted_and_a_second_ctrl_c_leaves():
  before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
  with StopSignal() as stop:
    assert stop.status == 0
    send(signal.SIGTERM)
    assert stop.status == 143
    send(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
      send(signal.SIGINT)
    assert stop.status == 143
  assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_a_reaction_gets_each_signal_and_sigint_from_the_second_on():
  numbers = []
  with StopSignal(numbers.append) as stop:
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
      send(number)
  assert numbers == [signal.SIGTERM, signal.SIGINT, signal.SIGINT]
  assert stop.status == 143


def test_a_main_thread_in_a_long_call_is_left_after_a_while(monkeypatch):
  monkeypatch.setattr(signals, "LEAVE_SECONDS", 0.2)
  statuses = []
  with StopSignal(leave=statuses.append) as stop:
    time.sleep(0.4)
    assert not statuses
    send(signal.SIGTERM)
    time.sleep(1.6)  # 0.2, then once a second
    assert statuses == [stop.status] * 2 == [143] * 2
