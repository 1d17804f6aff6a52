"""Runs by SLURM: real submitit, which writes real batch scripts; sbatch and srun are played."""

import json
import os
import pathlib
import re
import threading
import time

import pytest

from experiments import run
from experiments.tools.launch import launchers, results
from experiments.tools.runs import Run
from train.common.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
submitit = pytest.importorskip("submitit", reason="requirements-experiments.txt")
FILE = """
from experiments.tools.runs import Run
def runs(scale):
  changes = {"steps": 2, "schedule.warmup_steps": 1, "evaluate.every": 2}
  changes |= {"evaluate.decode_every": 0}
  yield Run("first", "configs/scan.py:small", changes | {"loggers": ()}, splits=())
  yield Run("other", "configs/scan.py:small", splits=())
  yield Run("second", "configs/scan.py:small,split={root}/first", splits=())
"""
# Says the number of the job, keeps its script, and runs the first task of the first array.
SBATCH = r"""#!/bin/bash
script="${@: -1}"; here="$(dirname "$0")"; number=$(ls "$here"/*.kept 2>/dev/null | wc -l)
cp "$script" "$here/$number.kept"
if [ "$number" = 0 ]; then
  SLURM_ARRAY_JOB_ID=7000 SLURM_ARRAY_TASK_ID=0 SLURM_ARRAY_TASK_COUNT=2 SLURM_JOB_ID=7000 \
    SLURM_JOB_NODELIST=here SLURM_JOB_NUM_NODES=1 bash "$script" > "$here/job.log" 2>&1 &
fi
echo "Submitted batch job 700$number"
"""
SRUN = """#!/bin/bash
while [ "${1#-}" != "$1" ]; do
  case "$1" in --output|--error) shift;; esac
  shift
done
SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 exec "$@"
"""


def wait_for(condition, seconds=600):
  """Waits as long as a busy machine may take."""
  until = time.monotonic() + seconds
  while not condition() and time.monotonic() < until:
    time.sleep(0.05)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
  """A folder with the programs of a cluster, and what was submitted to it."""
  folder = tmp_path / "bin"
  folder.mkdir()
  for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", "#!/bin/bash\necho here\n")):
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
  monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
  monkeypatch.chdir(ROOT)
  return folder


def test_slurm_runs_what_can_start_and_the_rest_after_it(cluster, tmp_path, capsys):
  (tmp_path / "mine.py").write_text(FILE)
  words = [str(tmp_path / "mine.py"), "--root", str(tmp_path), "--launcher", "slurm"]
  settings = "timeout_min=90,cpus_per_task=1,slurm_partition=long"
  run.main([*words, "--jobs", "1", "--slurm", settings])
  assert re.fullmatch(r"7000_0 +first\n7000_1 +other\n7001 +second\n", capsys.readouterr().out)
  first, second = ((cluster / f"{number}.kept").read_text() for number in (0, 1))
  for script in (first, second):
    assert "#SBATCH --partition=long" in script
    assert "#SBATCH --time=90" in script
    assert "#SBATCH --signal=USR2@" in script  # so that it saves before its time is up
  assert "#SBATCH --array=0-1%1" in first
  assert "--dependency" not in first
  assert "#SBATCH --dependency=afterok:7000" in second
  folder = tmp_path / "mine" / "small" / "first"
  wait_for(lambda: (folder / results.RECORD).exists())
  log = (cluster / "job.log").read_text()
  assert json.loads((folder / results.RECORD).read_text())["steps"] == 2, log
  run.main([*words, "--only", "first"])  # is finished
  assert not (cluster / "2.kept").exists()


def test_when_its_time_is_up_a_run_saves_and_is_queued_again(tmp_path, monkeypatch):
  (tmp_path / "save.py").write_text(
    "import pathlib, signal, sys, time\n"
    f"here = pathlib.Path({str(tmp_path)!r})\n"
    "def save(*_):\n  (here / 'saved').touch(); sys.exit(143)\n"
    "signal.signal(signal.SIGTERM, save)\n(here / 'began').touch()\ntime.sleep(900)\n"
  )
  command = ["python", str(tmp_path / "save.py")]
  monkeypatch.setattr(launchers, "commands", lambda *_: [command])
  work = launchers.SlurmTask(Run("a", "c"), results.Paths("", tmp_path / "root"))
  ended = []

  def call():
    try:
      work()
    except RuntimeError as error:
      ended.append(str(error))

  thread = threading.Thread(target=call)
  thread.start()
  wait_for(lambda: (tmp_path / "began").exists())
  again = work.checkpoint()
  assert (tmp_path / "saved").exists()
  thread.join()
  assert ended == ["a: interrupted"]
  assert isinstance(again.function, launchers.SlurmTask)
  assert (again.function.run, again.function.paths) == (work.run, work.paths)


def test_mistakes_are_told(cluster, tmp_path, monkeypatch):
  (tmp_path / "mine.py").write_text(FILE)
  words = [str(tmp_path / "mine.py"), "--root", str(tmp_path), "--launcher", "slurm"]
  with pytest.raises(UserError, match="--slurm timeout_min: has no value"):
    run.main([*words, "--slurm", "timeout_min"])
  with pytest.raises(UserError, match=r"--launcher slurm: .*slurm_particion"):
    run.main([*words, "--slurm", "slurm_particion=long"])
  with pytest.raises(UserError, match="second starts from a run that is neither finished"):
    run.main([*words, "--only", "second"])
  (cluster / "sbatch").write_text("#!/bin/bash\necho no such partition >&2; exit 1\n")
  with pytest.raises(UserError, match="--launcher slurm: no such partition"):
    run.main([*words, "--slurm", "timeout_min=9"])
  (cluster / "srun").unlink()
  with pytest.raises(UserError, match=r"--launcher slurm: .*srun"):
    run.main([*words])
