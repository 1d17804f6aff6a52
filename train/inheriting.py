"""Completes a config that starts from a trained model with that model's settings."""

from collections.abc import Mapping

from train import pretrained, tasks
from train.common.errors import UserError, choose
from train.interop.families.base import question_tokens
from train.interop.families.rope import shortest

# Weights that belong to what a model was trained for, by patterns of their paths.
HEAD = ("^head/", "^output_bias")
OUTPUT = "^output(_transform)?/"
PATTERNS = ("window", "rope_theta", "rope_scale")  # settings of single layers in a model's section
NO_WORDS = dict(output_bias=False, tie_output=True, output_transform="none")


def resolve(config: Mapping) -> dict:
  """Returns `config` (plain nested dicts) with its model taken over from another one.

  A config that starts from a trained model names it and inherits from it:

    init_from=dict(workdir="runs/mlm")      # or "hf:DIR"; `which` and `skip` if not as below
    model=dict(inherit="encoder", **changes)

  The section `model` becomes the origin's with `changes`, `task.tokenizer` the origin's,
  `init_from.which` "latest", and `init_from.skip` HEAD and the parts left out. A model that takes
  some of the origin's layers (`init_from.encoder_layers=(0, 2, 5)`) has no others. `inherit` is one
  of
    "model": the whole model with the bias of its outputs, whose decoder's states get labels in a
      task with labels, without the bias;
    "encoder": its decoder is left out (and of hf:DIR the head, `which="body"`), unless it has no
      encoder, which for labels is "model". A classification
      takes over the head of hf:DIR (`pool_activation`, and where they are not BERT's `pool` and
      `transform`) and, if task.pool is "first" or its own, its pooler;
    "pretraining": the whole model with all its weights (skip=()) if task.name is the origin's; of
      another task the body alone, with `changes`.
  A config without `model.inherit` is returned as it is.

  Raises UserError where there is no such model, or where it lacks the encoder or decoder that the
  task reads with (task.source_len, task.target_len).
  """
  if "inherit" not in config["model"]:
    return dict(config)
  task, changes = dict(config["task"]), dict(config["model"])
  inherit = changes.pop("inherit")
  choose(dict.fromkeys(("model", "encoder", "pretraining")), inherit, "model.inherit")
  origin = pretrained.open(config["init_from"]["workdir"])
  labels = tasks.predicts_labels(task["name"])
  if labels and inherit == "encoder" and not origin.model["encoder_layers"]:
    inherit = "model"
  either = labels and inherit == "model"
  for side, length in (("encoder", "source_len"), ("decoder", "target_len")):
    if task.get(length) and not origin.model[f"{side}_layers"] and not either:
      raise UserError(
        f"init_from.workdir {origin.name} has no {side}, which a {task['name']} task needs"
      )
  task["tokenizer"] = dict(name="file", path=origin.tokenizer_path)
  model = origin.model | changes
  same = origin.model.get("output_bias") == model.get("output_bias")  # a translator's is learned
  start = dict(which="latest", skip=HEAD[:1] if same else HEAD)
  if either:  # a head on the states of the whole model
    model, start["skip"] = _without_words(origin.model) | changes, (*HEAD, OUTPUT)
    task |= origin.directory.head_settings(task) if origin.directory else {}
  body = "body" if origin.directory else "latest"
  if inherit == "encoder":
    model = _without_words(origin.model) | dict(decoder_layers=0) | changes
    start = dict(which=body, skip=(*HEAD, "^decoder/", OUTPUT))
    if origin.directory:
      directory = pretrained.open(origin.name, body=True).directory
      if not origin.model["decoder_layers"]:
        task |= directory.head_settings(task)
      if directory.pooler and task.get("pool") in ("first", directory.head.pool):
        start["skip"] = ("^head/labels",)
  elif inherit == "pretraining" and origin.kind == task["name"]:
    model, start["skip"] = origin.model, ()
    if "head_activation" in task:
      task["head_activation"] = _mlm_activation(origin)
  elif inherit == "pretraining":
    start = dict(which=body, skip=(*HEAD, OUTPUT))
  if origin.directory and model["global_tokens"] and task["name"] in tasks.TASKS:
    which = origin.directory.family.globals_for(tasks.TASKS[task["name"]].hf_kind)
    task |= dict(global_attention=which, pack=False)
    if which == "question":
      model = model | dict(global_tokens=question_tokens(model["max_len"])) | changes
  start |= config["init_from"]
  if start.get("encoder_layers") and not origin.model["encoder_layers"]:  # a lone decoder's layers
    if start.get("decoder_layers"):
      raise UserError(
        f"init_from.encoder_layers is {start['encoder_layers']} and .decoder_layers"
        f" {start['decoder_layers']}, and {origin.name} has one stack: name its layers once"
      )
    start = start | dict(encoder_layers=(), decoder_layers=start["encoder_layers"])
  model = model | _patterns(model, origin.model, start, changes)
  for stack in ("encoder", "decoder"):
    if layers := start.get(f"{stack}_layers"):
      if not model[f"{stack}_layers"]:
        raise UserError(
          f"init_from.{stack}_layers is {layers}, and a {task['name']} task takes no {stack} from"
          f" {origin.name}: leave it out"
        )
      model = model | {f"{stack}_layers": len(layers)}
  return dict(config) | dict(model=model, task=task, init_from=start)


def _patterns(model: Mapping, origin: Mapping, start: Mapping, changes: Mapping) -> dict:
  """Returns the settings of single layers that `model` has from the origin (not by `changes`), in
  the order of the origin's layers that it takes over (`start`, the section `init_from`).

  Raises UserError where the encoder's layers would need others than the decoder's, with which they
  share a setting.
  """
  own, stacks = {}, ("encoder", "decoder")
  shared = dict.fromkeys(PATTERNS, stacks)
  if model.get("decoder_window") is not None:
    shared |= {"window": stacks[:1], "decoder_window": stacks[1:]}
  for name, several in ((name, model.get(name)) for name in shared):
    taken = [layer for stack in shared[name] for layer in start.get(f"{stack}_layers") or ()]
    # those that are no numbers are named when weights are taken
    known = bool(taken) and all(isinstance(layer, int) for layer in taken)
    if not known or not isinstance(several, list | tuple) or name in changes:
      continue
    counts = {stack: model[f"{stack}_layers"] for stack in shared[name]}
    orders = [start.get(f"{stack}_layers") or range(count) for stack, count in counts.items()]
    rows = [tuple(several[layer % len(several)] for layer in order) for order in orders]
    longest = max(rows, key=len)
    if any(row != longest[: len(row)] for row in rows):
      raise UserError(
        f"init_from.encoder_layers: model.{name} is {tuple(several)} of encoder and decoder alike,"
        f" and these layers would need {' and '.join(map(str, rows))}: choose the same of both"
      )
    value = shortest(longest)
    # None would mean the encoder's window
    own[name] = (value,) if name == "decoder_window" and not isinstance(value, tuple) else value
  return own


def _without_words(model: Mapping) -> dict:
  """Returns the section `model` without the layers that predict words alone; an LSTM has fewer."""
  return model | {name: value for name, value in NO_WORDS.items() if name in model}


def _mlm_activation(origin: pretrained.Pretrained) -> str:
  """Returns the activation of a masked-LM head, "" for the model's."""
  if not origin.directory:
    return origin.config.task.get("head_activation", "")
  activation = origin.directory.head.activation
  return "" if activation == origin.model["activation"] else activation
