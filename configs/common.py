"""What the configs share: the sections with all their keys, and what follows ":" in
`--config configs/NAME.py:arg=value,...`.

A key that is in no section cannot be set by `--config.KEY=VALUE`; so each section is written out
here once, and a config says only what is different in its run.
"""

import ast
import difflib
import types

from ml_collections import ConfigDict

# model.config.TransformerConfig's fields and defaults (tests/test_configs.py holds them equal).
MODEL = dict(
  dim=512,
  num_heads=8,
  num_kv_heads=None,
  head_dim=None,
  mlp_dim=2048,
  encoder_layers=6,
  decoder_layers=6,
  activation="relu",
  gated=False,
  norm="layer",
  norm_position="post",
  norm_eps=1e-6,
  embedding_norm=False,
  bias=True,
  positions="sinusoidal",
  max_len=512,
  relative_buckets=32,
  relative_max_distance=128,
  rope_theta=10000.0,
  share_embeddings=True,
  tie_output=True,
  output_bias=False,
  embed_scale=True,
  logits_scale=1.0,
  attention_scale=None,
  init_std=None,
  dropout=0.1,
  attention_dropout=0.0,
  activation_dropout=0.0,
  attention_impl="einsum",
  dtype="float32",
)
TRANSLATION = dict(
  name="translation",
  data=dict(),
  tokenizer=dict(name="bpe", vocab_size=8000),
  source_len=64,
  target_len=64,
  pack=True,
  label_smoothing=0.1,
  z_loss=0.0,
  decode_batch=64,
  lowercase_scores=False,
  tokenized_scores=False,
  piece_marker="",
  decoding=dict(beam=4, length_penalty=0.6, max_len_ratio=1.0, max_len_extra=50),
)
ADAMW = dict(
  name="adamw", clip_norm=1.0, no_decay=r"(bias|scale)$", b1=0.9, b2=0.98, weight_decay=0.01
)
ADAM = dict(name="adam", clip_norm=0.0, no_decay="", b1=0.9, b2=0.98, eps=1e-9)  # Vaswani's


def run(*, steps: int, batch_size: int, log_every: int, task, model, optimizer, schedule, **more):
  """The config of a run: `more` are the sections evaluate and checkpoint and what is not usual."""
  usual = dict(
    seed=0,
    microbatches=1,
    workers=0,
    patience=0,  # stop after so many evaluations without a better checkpoint.best_metric; 0: never
    mesh=dict(data=-1, fsdp=1, tensor=1),
    tensorboard=True,
    init_from=dict(workdir="", which="latest", skip=()),
  )
  sections = dict(task=task, model=MODEL | model, optimizer=optimizer, schedule=schedule)
  own = dict(steps=steps, batch_size=batch_size, log_every=log_every)
  return ConfigDict(usual | own | sections | more)


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
