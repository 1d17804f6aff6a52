"""python -m tests.slow_list LOG [--over 2.5] [--cases 1.4]

Writes tests/slow.txt, the tests that `make test` leaves to `make test-all` because of their time
alone: those whose call took more than `--over` seconds in LOG, the output of pytest with
--durations=0, and cases of more than `--cases` of a test that has quicker ones. Tests of the list
that LOG did not measure stay.
"""

import argparse
import pathlib
import re

FILE = pathlib.Path(__file__).with_name("slow.txt")
# Tried before every change lands, whatever it takes: what breaks most dearly, and one test of each
# of the properties that the list's tests have in common.
KEPT = (
  "test_killed_and_interrupted_and_started_again_is_the_same_run",
  "test_a_killed_process_stops_the_others_and_two_started_again_are_one_alone",
  "test_one_device_is_eight[sizes0-transformer]",
  "test_one_batch_is_",
  "test_a_run_is_the_same_on_every_mesh[2x2x2]",
  "test_merged_weights_compute_what_base_and_adapters_do[classes-False]",
  "test_an_update_moves_adapters_alone_and_keeps_no_moments_of_the_base",
  "test_logits_of_the_folder_are_the_teachers[classes]",
  "test_an_exported_run_is_predicted_with_evaluated_and_started_from",
  "test_init_from_takes_the_weights",
  "test_a_window_is_cached_as_it_is_parallel",
  "test_masked_loss_is_that_of_the_logits_of_all_tokens",
  "tests/test_house.py",
  "test_it_computes_what_a_loop_in_numpy_does[one way]",
  "test_lstm.py::test_cached_is_parallel[one way]",
  "test_outputs_are_those_of_transformers[bert]",
  "test_outputs_are_those_of_transformers[llama]",
  "test_a_batch_is_learned_by_heart[classes]",
  "test_a_batch_is_learned_by_heart[causal]",
  "test_a_student_equal_to_its_teacher_has_nothing_to_learn[span]",
  "test_a_pruned_model_is_the_masked_one[classes-changes1]",
  "test_adapters_of_integers_merge_into_the_floats_that_these_stand_for[classes-settings0]",
  "test_what_is_written_is_read_as_the_run",
  "test_workers_change_nothing[causal]",
  "test_its_example_runs",
)


def read() -> list[str]:
  """Returns the ids of the list."""
  lines = FILE.read_text(encoding="utf-8").splitlines() if FILE.exists() else []
  return [line for line in lines if not line.startswith("#")]


def calls(log: str) -> dict[str, float]:
  """Returns test id -> seconds of its call."""
  found = re.findall(r"^ *([0-9.]+)s call +(\S.*?) *$", log, re.MULTILINE)
  return {name: float(seconds) for seconds, name in found}


def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[2])
  parser.add_argument("log", type=pathlib.Path)
  parser.add_argument("--over", type=float, default=2.5, help="seconds")
  parser.add_argument(
    "--cases", type=float, default=1.4, help="seconds of one of several cases of a test"
  )
  args = parser.parse_args(argv)
  measured = calls(args.log.read_text(encoding="utf-8", errors="replace"))
  quick = {name.partition("[")[0] for name, seconds in measured.items() if seconds <= args.cases}
  slow = {
    name
    for name, seconds in measured.items()
    if seconds > (args.cases if name.partition("[")[0] in quick else args.over)
  }
  slow |= set(read()) - measured.keys()
  ids = sorted(name for name in slow if not any(text in name for text in KEPT))
  first = "# Left to `make test-all` for their time; written by tests/slow_list.py"
  FILE.write_text("\n".join([first, *ids]) + "\n", encoding="utf-8")
  print(f"{FILE}: {len(ids)} tests")


if __name__ == "__main__":
  main()
