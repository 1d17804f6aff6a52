"""Opens the teacher of a run that distils: what its loss follows, and the teacher's weights."""

import dataclasses
from typing import Any, NamedTuple

from absl import logging
from flax import nnx
from ml_collections import ConfigDict

from train import pretrained, sharding, starting, tasks
from train.common.errors import UserError
from train.compression import distillation
from train.tasks.seq2seq import DecoderTask
from train.teacher_cache import TeacherCache

OF_WORDS = ("mlm", "causal", "translation")
OWN = {"source_len", "target_len", "choice_len", "length", "pack"}  # of a student's rows


class Lesson(NamedTuple):
  """An objective, and weights that a run's updates read and do not move."""

  objective: Any  # the task, or a Distilled one
  shapes: dict  # of the fixed weights, as ShapeDtypeStructs with their shardings
  teacher: pretrained.Pretrained | None = None
  cache: TeacherCache | None = None  # of its logits, which batches then have

  def fixed(self, which: str) -> dict:
    """Returns the fixed weights, those of the teacher's checkpoint `which`."""
    if self.teacher is None or self.cache:
      return {}
    weights, steps = self.teacher.place(which, self.shapes["teacher"])
    logging.info("distill.teacher %s: checkpoint %s, steps %s", self.teacher.name, which, steps)
    return dict(teacher=weights)

  def items(self, items, layout):
    """Returns the training items of batches of a layout, with the teacher's logits if they are
    kept."""
    return self.cache.items(items, layout) if self.cache else items


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
  _check_words(cfg, teacher, task)
  if pretrained.quantized(teacher).get("stored"):
    raise UserError(
      f"distill.teacher {teacher.name} holds integers: name the run it was made of, or one that"
      " `train.export --format run` writes of it"
    )
  teacher.check_sizes(settings["which"])
  platform = mesh.devices.flat[0].platform
  try:
    graph, placed = sharding.split(teacher.build(teacher.model, own, platform), mesh)
  except UserError as error:
    raise UserError(f"distill.teacher {teacher.name}: {error}") from error
  if not settings["cache"]:
    objective = distillation.Distilled(task, graph, settings, layers)
    return Lesson(objective, dict(teacher=placed), teacher)
  cache = TeacherCache(settings, task, teacher, graph, placed, mesh, _of_words(task))
  return Lesson(distillation.Distilled(task, None, settings, layers), {}, teacher, cache)


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
  """Returns the teacher's task, for texts of the student's lengths; raises UserError where it
  cannot answer what the student's task asks."""
  if starting.differs(teacher, task.tokenizer):
    raise UserError(
      f"distill.teacher {teacher.name}: its tokenizer is not this run's, so its logits are of other"
      f" tokens. Take that one (task.tokenizer=dict(name='file', path='{teacher.tokenizer_path}');"
      f" configs do so by init={teacher.name} or, with random weights, tokenizer={teacher.name})"
    )
  if teacher.kind == "body":
    raise UserError(
      f"distill.teacher {teacher.name} has no head: fine-tune it first (init=), and name that run"
    )
  theirs, ours = tasks.main_part(teacher.task()), tasks.main_part(task)
  of_words = all(isinstance(x, DecoderTask) for x in (theirs, ours))
  if type(theirs) is not type(ours) and not of_words:
    raise UserError(
      f"distill.teacher {teacher.name} has a task of {type(theirs).__name__}, and this one is of"
      f" {type(ours).__name__}"
    )
  if bool(theirs.source_len) != bool(ours.source_len):
    raise UserError(
      f"distill.teacher {teacher.name} reads {'' if theirs.source_len else 'no '}sources, and this"
      f" task ({type(ours).__name__}) {'does' if ours.source_len else 'does not'}"
    )
  if teacher.model.get("global_tokens") and theirs.global_attention != ours.global_attention:
    raise UserError(
      f"distill.teacher {teacher.name} has task.global_attention={theirs.global_attention}: set it"
      " to that, which changes no student without global tokens"
    )
  for name in ("labels", "targets"):
    there, here = (getattr(x, name, ()) for x in (theirs, ours))
    if there != here:
      raise UserError(
        f"distill.teacher {teacher.name} has the {name} {', '.join(there)}, and this task"
        f" {', '.join(here)}"
      )
  if of_words:  # without heads, and a teacher writes nothing
    decoding = dict(max_len_ratio=0.0, max_len_extra=1, max_len_total=0)
    return dataclasses.replace(ours, decoding=dataclasses.replace(ours.decoding, **decoding))
  fields = {field.name for field in dataclasses.fields(ours)}
  return dataclasses.replace(theirs, **{key: getattr(ours, key) for key in fields & OWN})


def _check_words(cfg, teacher: pretrained.Pretrained, task) -> None:
  """Raises UserError where logits of words are of another number of words."""
  words = task.tokenizer.vocab_size
  there, here = (x.get("vocab_size") or words for x in (teacher.model, cfg.model))
  if there != here and _of_words(task):
    raise UserError(
      f"distill.teacher {teacher.name} has logits of {there} words, and this model of {here}: set"
      f" model.vocab_size={there}"
    )


def _of_words(task) -> bool:
  """Returns whether a task's logits are of the words of a vocabulary."""
  return getattr(task, "hf_kind", "") in OF_WORDS
