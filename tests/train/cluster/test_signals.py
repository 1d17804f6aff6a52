"""Ctrl-C and SIGTERM: one handler, with and without a reaction of its own."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers import ROOT
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


def test_ctrl_c_ends_a_long_call_where_nothing_is_to_be_saved():
  code = (
    "import hashlib, signal; from train.cluster.signals import leave_on_ctrl_c\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's & ignores it
    "with leave_on_ctrl_c(0.2):\n"
    "  print('in', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"
  )
  pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
  child = subprocess.Popen([sys.executable, "-c", code], **pipes)
  try:
    assert child.stdout.readline() == "in\n"
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=60)[1] == "interrupted\n"
    assert child.returncode == 130
  finally:
    child.kill()


def test_ctrl_c_is_raised_and_the_process_goes_on_if_the_block_ends():
  before = signal.set_wakeup_fd(-1)
  handler = signal.signal(signal.SIGINT, signal.default_int_handler)
  with pytest.raises(KeyboardInterrupt), signals.leave_on_ctrl_c(0.1):
    send(signal.SIGINT)
  time.sleep(0.2)
  assert signal.set_wakeup_fd(before) == -1
  signal.signal(signal.SIGINT, handler)


def test_a_main_thread_in_a_long_call_is_left_after_a_while(monkeypatch):
  monkeypatch.setattr(signals, "LEAVE_SECONDS", 0.2)
  statuses = []
  with StopSignal(leave=statuses.append) as stop:
    time.sleep(0.4)
    assert not statuses
    send(signal.SIGTERM)
    time.sleep(1.6)  # 0.2, then once a second
    assert statuses == [stop.status] * 2 == [143] * 2
