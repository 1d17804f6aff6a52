"""Opens the teacher of a run that distils: what its loss follows, and the teacher's weights."""

from typing import Any, NamedTuple

from absl import logging
from flax import nnx
from ml_collections import ConfigDict

from train import pretrained, sharding, starting
from train.build import build_model
from train.common.errors import UserError
from train.compression import distillation


class Lesson(NamedTuple):
  """What a run minimises, and weights that its updates read and do not move."""

  objective: Any  # the task, or a Distilled one
  shapes: dict  # of the fixed weights, as ShapeDtypeStructs with their shardings
  teacher: pretrained.Pretrained | None = None

  def fixed(self, which: str) -> dict:
    """Returns the fixed weights, those of the teacher's checkpoint `which`."""
    if self.teacher is None:
      return {}
    weights, steps = self.teacher.place(which, self.shapes["teacher"])
    logging.info("distill.teacher %s: checkpoint %s, steps %s", self.teacher.name, which, steps)
    return dict(teacher=weights)


def lesson(cfg: ConfigDict, task, mesh) -> Lesson:
  """Returns the lesson of a run: its task alone, or with the teacher of the section `distill`.

  Raises UserError for a teacher of another task, vocabulary or set of labels, and for a map of
  layers that does not fit.
  """
  settings = cfg.distill.to_dict()
  if not settings["teacher"]:
    return Lesson(task, {})
  teacher = pretrained.open(settings["teacher"])
  layers = _layers(settings, cfg, teacher)
  own = _check(teacher, task)
  teacher.check_sizes(settings["which"])
  platform = mesh.devices.flat[0].platform
  graph, shapes = nnx.split(nnx.eval_shape(lambda: build_model(teacher.model, own, 0, platform)))
  shapes = dict(params=nnx.to_pure_dict(shapes))
  placed = sharding.abstract(shapes, sharding.place(shapes, mesh))["params"]
  objective = distillation.Distilled(task, graph, settings, layers)
  return Lesson(objective, dict(teacher=placed), teacher)


def add_projections(model, cfg: ConfigDict) -> None:
  """Adds the layers that take a student's states to its teacher's size, where they differ."""
  settings = cfg.distill.to_dict()
  if settings["teacher"] and settings["hidden"]:
    size = pretrained.open(settings["teacher"]).model["dim"]
    distillation.add_projections(model, size, nnx.Rngs(cfg.seed))


def _layers(settings, cfg, teacher) -> dict[str, tuple[int, ...]]:
  if not (settings["hidden"] or settings["attention"]):
    for key in ("layers", "decoder_layers"):
      if settings[key]:
        raise UserError(
          f"distill.{key} has no effect while distill.hidden and distill.attention are 0"
        )
    return {}
  for what, model in (("model", cfg.model), ("distill.teacher", teacher.model)):
    if model.get("name", "transformer") != "transformer":
      raise UserError(f"{what} is an lstm: it has no layers of attention to follow")
  return distillation.layer_map(settings, cfg.model, teacher.model)


def _check(teacher: pretrained.Pretrained, task):
  """Returns the teacher's task; raises UserError where it cannot answer what the task asks."""
  if starting.differs(teacher, task.tokenizer):
    raise UserError(
      f"distill.teacher {teacher.name}: its tokenizer is not this run's, so its logits are of other"
      f" tokens. Take that one (task.tokenizer=dict(name='file', path='{teacher.tokenizer_path}');"
      f" configs do so by init={teacher.name} or, with random weights, tokenizer={teacher.name})"
    )
  kind, ours = teacher.kind, getattr(task, "hf_kind", "")
  if teacher.directory and kind != ours:
    raise UserError(
      f"distill.teacher {teacher.name} is a model for {kind}, and this task is {ours or 'another'}:"
      " fine-tune it first (init=), and name that run"
    )
  theirs = teacher.task()
  if not teacher.directory and type(theirs) is not type(task):
    raise UserError(
      f"distill.teacher {teacher.name} has a task of {type(theirs).__name__}, and this one is of"
      f" {type(task).__name__}"
    )
  for name in ("labels", "targets"):
    if getattr(theirs, name, ()) != getattr(task, name, ()):
      raise UserError(
        f"distill.teacher {teacher.name} has the {name} {', '.join(getattr(theirs, name))}, and"
        f" this task {', '.join(getattr(task, name))}"
      )
  return theirs
