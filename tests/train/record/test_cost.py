"""What a step costs: MFU from counted FLOPs and a peak, and memory."""

import json
import types

import jax
import pytest

from train.common import flops
from train.common.files import cache_dir
from train.record import cost


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("SCRIPTORIUM_CACHE", str(tmp_path))


def device(kind, platform="gpu"):
  return types.SimpleNamespace(device_kind=kind, platform=platform)


@pytest.mark.parametrize(
  "kind, name",
  [
    ("TPU v5 lite", "v5e"),
    ("TPU v5", "v5p"),
    ("TPU v6 lite", "v6e"),
    ("NVIDIA H100 80GB HBM3", "h100"),
    ("NVIDIA H200", "h100"),
    ("NVIDIA A100-SXM4-40GB", "a100"),
    ("NVIDIA H100 PCIe", None),
    ("cpu", None),
  ],
)
def test_peaks_are_found_by_the_kind_of_device(kind, name):
  assert flops.peak_of(kind) == (flops.PEAKS[name].flops if name else None)


def test_mfu_is_three_forward_passes_over_the_peak_of_all_devices():
  counted = []
  costs = cost.Cost(lambda: counted.append(1) or int(1e12), [device("TPU v5 lite")] * 4)
  assert costs(50.0)["mfu"] == pytest.approx(3e12 / 0.05 / (4 * 197e12))
  assert costs(100.0)["mfu"] == pytest.approx(3e12 / 0.1 / (4 * 197e12))
  assert len(counted) == 1


def test_an_unknown_accelerator_has_no_mfu_and_is_named_once(caplog):
  costs = cost.Cost(lambda: 1 / 0, [device("NVIDIA X9")])
  with caplog.at_level("INFO"):
    for _ in range(2):
      assert "mfu" not in costs(10.0)
  assert caplog.text.count("NVIDIA X9") == 1


def test_a_cpu_is_measured_once_and_again_where_it_was_faster_than_measured():
  rate = cost.cpu_peak()
  (file,) = cache_dir("speed").iterdir()
  assert json.loads(file.read_text()) == {"matmul_flops": rate}
  file.write_text(json.dumps({"matmul_flops": rate / 1000}))  # as on a very busy machine
  assert cost.cpu_peak() == rate / 1000
  costs = cost.Cost(lambda: int(rate / 1000), jax.devices("cpu")[:1])
  assert 0 < costs(1000.0)["mfu"] < 1  # 3 times the kept rate
  assert json.loads(file.read_text())["matmul_flops"] > rate / 100
  file.write_text("{")
  assert cost.cpu_peak() > rate / 100


def test_memory_is_that_of_the_fullest_device_where_it_is_known(monkeypatch):
  assert "device_memory_gb" not in cost.peak_memory()
  assert 0.05 < cost.peak_memory()["host_memory_gb"] < 1000
  stats = [{"peak_bytes_in_use": 3e9}, {"peak_bytes_in_use": 5e9}, None]
  devices = [types.SimpleNamespace(memory_stats=lambda stat=stat: stat) for stat in stats]
  monkeypatch.setattr(jax, "local_devices", lambda: devices)
  assert cost.peak_memory()["device_memory_gb"] == 5.0
