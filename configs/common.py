"""What the configs share: a run made of its sections, and what follows ":" in
`--config configs/NAME.py:arg=value,...`."""

import ast
import difflib
import json
import pathlib
import types

from ml_collections import ConfigDict

from configs.sections import ADAMW, DATA, ENCODER, MODELS, OPTIMIZER, SCHEDULE, SMALL
from train.pretrained import PREFIX  # until configs name an origin as data (pretrained.resolve)
from train.pretrained import open as open_pretrained

# -1: the devices that are left. sequence: activations between matrices are split along the row's
# tokens over tensor.
MESH = dict(data=-1, fsdp=1, tensor=1, sequence=False)


def run(*, steps: int, batch_size: int, log_every: int, task, model, optimizer, schedule, **more):
  """The config of a run: `more` are the sections evaluate and checkpoint and what is not usual."""
  usual = dict(
    seed=0,
    parallelism="jit",  # or pmap: data parallelism by hand
    microbatches=1,
    workers=0,
    ema=0.0,  # decay of the weights' moving average, which is then evaluated and handed on; 0: none
    spike=3.0,  # a loss over so many times the median of the last 100 is told; 0: none
    skip_spikes=False,  # and its update is left out
    max_skipped=10,  # updates in a row that are not finite, after which a run stops; 0: never
    watchdog_seconds=600.0,  # so long without a step's end is told, with stacks; 0: never
    patience=0,  # stop after so many evaluations without a better checkpoint.best_metric; 0: never
    mesh=MESH,
    tensorboard=True,
    init_from=dict(workdir="", which="latest", skip=()),
  )
  if "data" in task:  # a mixture's is in its parts
    task = task | dict(data=DATA | task["data"])
  sections = dict(
    task=task,
    model=MODELS[model.get("name", "transformer")] | model,
    optimizer=OPTIMIZER | optimizer,
    schedule=SCHEDULE | schedule,
  )
  own = dict(steps=steps, batch_size=batch_size, log_every=log_every)
  return ConfigDict(usual | own | sections | more)


def prose(pattern: str) -> dict:
  """Texts of which the last fiftieth is held out, file by file."""
  splits = {"train": f"{pattern}[:98%]", "validation": f"{pattern}[98%:]"}
  return dict(name="text", splits=splits, unit="file")


def splits(folder: str, ending: str, dev: str) -> dict:
  """Files train, dev and test of a folder. dev "10%": there is none, and so much of train, its
  end, is held out instead."""
  train, validation = f"{folder}/train{ending}", f"{folder}/{dev}{ending}"
  if dev.endswith("%"):
    share = 100 - int(dev.removesuffix("%"))
    train, validation = f"{train}[:{share}%]", f"{train}[{share}%:]"
  return dict(train=train, validation=validation, test=f"{folder}/test{ending}")


def pretrained(init: str, skip=("^head/", "^output_bias")) -> dict:
  """The model, init_from and tokenizer of a run that goes on from another's latest checkpoint, or
  from hf:DIR, a Hugging Face directory."""
  path = pathlib.Path(init, "config.json")
  if init.startswith(PREFIX):
    model, tokenizer = open_pretrained(init).model, init
  elif path.exists():
    model, tokenizer = (
      json.loads(path.read_text(encoding="utf-8"))["model"],
      f"{init}/tokenizer.json",
    )
  else:
    raise ValueError(f"init={init} is no run's folder: there is no {path}")
  return dict(
    model=model,
    init_from=dict(workdir=init, which="latest", skip=skip),
    tokenizer=dict(name="file", path=tokenizer),
  )


def go_on(init: str, task: str, **model) -> dict:
  """`pretrained` for a run that pre-trains: a head comes along if it is of the same task."""
  start = pretrained(init, skip=())
  if init.startswith(PREFIX):
    same, which = open_pretrained(init).kind == task, "body"
  else:
    config = json.loads(pathlib.Path(init, "config.json").read_text(encoding="utf-8"))
    same, which = config["task"]["name"] == task, "latest"
  if not same:
    skip = ("^head/", "^output_bias", "^output/")
    start |= dict(
      init_from=dict(workdir=init, which=which, skip=skip), model=start["model"] | model
    )
  return start


def fine_tune(task: dict, arg, *, best_metric: str, decoder: bool = False):
  """A run on labelled data: a pre-trained model (arg.init) or a random one, with a run's tokenizer
  (arg.tokenizer) or one of its data; an encoder unless `decoder`."""
  if arg.init and arg.tokenizer:
    raise ValueError("init=RUN brings its tokenizer: tokenizer=RUN is for random weights")
  if arg.init:
    start = pretrained(arg.init)
    task = task | dict(tokenizer=start.pop("tokenizer"))
    for side, needed in (("encoder", True), ("decoder", decoder)):
      if needed and not start["model"][f"{side}_layers"]:
        raise ValueError(f"init={arg.init} has no {side}, which this config needs")
    if not decoder:
      start["model"] = start["model"] | dict(decoder_layers=0, output_bias=False, tie_output=True)
      start["init_from"]["skip"] += ("^decoder/", "^output/")
      if arg.init.startswith(PREFIX):
        start["init_from"]["which"] = "body"
        found = open_pretrained(arg.init, body=True)
        if task["name"] == "classification":
          task = task | dict(pool_activation=found.pool_activation)
          if found.pooler and task["pool"] == "first":
            start["init_from"]["skip"] = ("^head/labels",)
  else:
    depths = dict(encoder_layers=3, decoder_layers=2) if decoder else {}
    start = dict(model=ENCODER | depths)
    if arg.tokenizer:
      task = task | dict(tokenizer=dict(name="file", path=f"{arg.tokenizer}/tokenizer.json"))
    elif arg.small:
      task = task | dict(tokenizer=task["tokenizer"] | dict(vocab_size=400))
    if arg.small:
      start["model"] |= SMALL | dict(encoder_layers=1, decoder_layers=int(decoder))
  every = 10 if arg.small else max(arg.steps // 5, 1)
  examples = 16 if arg.small else 1000
  return run(
    steps=20 if arg.small else arg.steps,
    batch_size=8 if arg.small else 16,  # packed rows
    log_every=5 if arg.small else 50,
    task=task,
    optimizer=ADAMW,
    schedule=dict(
      name="linear", peak=arg.peak, warmup_steps=2 if arg.small else arg.steps // 10, final=0.0
    ),
    evaluate=dict(split="validation", every=every, decode_every=every, decode_examples=examples),
    checkpoint=checkpoints(every, keep_latest=1) | dict(best_metric=best_metric, best_mode="max"),
    **start,
  )


def checkpoints(every: int, keep_latest: int) -> dict:
  """Every so many steps; the latest ones and the one with the lowest validation loss are kept."""
  return dict(
    every=every, keep_latest=keep_latest, keep_best=1, best_metric="loss", best_mode="min"
  )


TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")


def parse(arg: str, **defaults) -> types.SimpleNamespace:
  """The arguments in `arg` ("size=big,small") over `defaults`, each of its default's type.

  A tuple as default lists the choices, the first being the default. A bare word sets a bool to
  True. A default of None takes any value. Values hold no comma.
  Raises ValueError, naming the nearest known word, for an unknown name or value.
  """
  choices = {name: value for name, value in defaults.items() if isinstance(value, tuple)}
  values = {name: choices[name][0] if name in choices else defaults[name] for name in defaults}
  seen = set()
  for item in filter(None, (part.strip() for part in arg.split(","))):
    name, equals, text = (part.strip() for part in item.partition("="))
    if name not in defaults:
      raise ValueError(_unknown(name, defaults, choices))
    if name in seen:
      raise ValueError(f"argument {name} is given twice in {arg!r}")
    seen.add(name)
    if not equals and not isinstance(values[name], bool):
      raise ValueError(f"argument {name} needs a value: {name}={values[name]}")
    value = _typed(name, text if equals else "true", values[name])
    if name in choices and value not in choices[name]:
      known = ", ".join(map(str, choices[name]))
      raise ValueError(f"argument {name}={text}: {name} is one of {known}{_near(text, known)}")
    values[name] = value
  return types.SimpleNamespace(**values)


def _unknown(name, defaults, choices):
  for owner, words in choices.items():
    if name in map(str, words):
      return f"no argument is called {name}; did you mean {owner}={name}?"
  known = ", ".join(defaults)
  return f"no argument is called {name}{_near(name, known)}; there are: {known or 'none'}"


def _near(word, known):
  near = difflib.get_close_matches(word, known.split(", "), 1, cutoff=0.5)
  return f"; did you mean {near[0]}?" if near else ""


def _typed(name, text, default):
  kind = type(default)
  try:
    if kind is bool:
      return {**dict.fromkeys(TRUE, True), **dict.fromkeys(FALSE, False)}[text.lower()]
    if kind in (int, float, str):
      return kind(text)
  except (KeyError, ValueError):
    raise ValueError(f"argument {name}={text}: {name} is of type {kind.__name__}") from None
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text
