"""Nothing ended for a while: told once, with what each thread does."""

import contextlib
import threading
import time

from train.cluster.watchdog import Watchdog, stacks


def wait_for(condition, most=20.0):
  began = time.monotonic()
  while not condition() and time.monotonic() - began < most:
    time.sleep(0.02)
  return condition()


def test_a_silence_is_told_once_with_stacks(tmp_path, caplog):
  watchdog, file = None, tmp_path / "stacks.txt"

  def hanging_in_here():
    nonlocal watchdog
    watchdog = Watchdog(tmp_path, 0.2)  # in here: a busy machine may take so long to come here
    return wait_for(lambda: caplog.records)

  assert hanging_in_here()
  assert "in the start" in caplog.text
  text = file.read_text()
  assert "hanging_in_here" in text
  time.sleep(0.5)
  assert len(caplog.records) == 1
  watchdog.begin("step 7")
  assert wait_for(lambda: len(caplog.records) == 2)
  assert "in step 7" in caplog.text
  watchdog.closed.set()
  watchdog.thread.join(5)
  assert not watchdog.thread.is_alive()


def test_the_main_thread_is_told_first_however_many_there_are():
  over = threading.Event()

  def waits_in_there():
    over.wait()

  with contextlib.ExitStack() as stack:
    stack.callback(over.set)
    for number in range(120):
      threading.Thread(target=waits_in_there, name=f"waiting {number}").start()
    assert wait_for(lambda: stacks().count("waits_in_there") >= 120)
    first, *others = stacks().split("\n\n")
  assert "test_the_main_thread_is_told_first" in first
  assert sum("waiting " in text and "waits_in_there" in text for text in others) == 120


def test_steps_that_end_in_time_are_not_told_nor_with_0(tmp_path, caplog):
  watchdog, never = Watchdog(tmp_path, 2.0), Watchdog(tmp_path, 0)
  for step in range(10):
    time.sleep(0.05)
    watchdog.begin(f"step {step}")
  watchdog.closed.set()
  never.closed.set()
  assert not caplog.records
  assert not list(tmp_path.iterdir())
