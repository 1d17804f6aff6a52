"""The benchmark's peers: their scripts run and are measured."""

import os
import re
import sys

import pytest

from experiments.benchmark import __main__ as benchmark

pytest.importorskip("accelerate")


@pytest.mark.parametrize("part, rows", [("decode", 6), ("train", 2), ("finetune", 6), ("start", 2)])
def test_peers_are_measured(part, rows, capsys, monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", os.environ["SCRIPTORIUM_TEST_XLA_FLAGS"])  # one device
  benchmark.main([part, "--quick", "--peers", sys.executable])
  output = capsys.readouterr().out
  names = "CTranslate2|transformers|Trainer|Seq2SeqTrainer"
  peers = re.findall(rf"\| (?:{names})[^|]*\| ([\d.,]+)", output)
  assert len(peers) >= rows
  assert all(float(x.replace(",", "")) > 0 for x in peers)
