"""Reads configs of older runs: settings that they lack, and older names of settings."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from train.record.config import BOOLS, flat, frozen

# Settings that older runs lack, each with the value that continues such a run unchanged.
ADDED = dict(ema=0.0, spike=3.0, skip_spikes=False, watchdog_seconds=600.0)
ADDED |= {"model.name": "transformer", "epochs": 0.0, "streams": 0}
ADDED_TO = {  # the same settings in the section of each task
  "data": {"on_bad_record": "error", "cutoff": 22, "stream": None},
  "model": dict(
    decoder_heads=None,
    decoder_kv_heads=None,
    decoder_head_dim=None,
    decoder_mlp_dim=None,
    decoder_max_len=None,
    decoder_window=None,
    share_layers=False,
    norm_bias=True,
    first_norm=True,
    qkv_bias=None,
    mlp_bias=None,
    qk_norm=False,
    parallel=False,
    relative_per_layer=False,
    disentangled_terms="c2p+p2c",
    disentangled_projections=False,
    disentangled_norm=True,
    convolution=None,
    convolution_activation="tanh",
    rope_scale=1.0,
    rope_original_len=None,
    rope_low_turns=1.0,
    rope_high_turns=4.0,
    rotary_dim=None,
    logits_softcap=None,
    output_transform="none",
    attention_softcap=None,
    global_projections=False,
    global_blocks=None,
  ),
  "decoding": dict(
    penalty="wu",
    stop="exact",
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    nbest=1,
    seed=0,
    max_len_total=0,
    min_len=0,
    no_repeat_ngram=0,
    repetition_penalty=1.0,
    banned=(),
    begin_banned=(),
    forced_last=(),
    generation="ours",
  ),
  "reading": {"nbest": 1},
  "init_from": dict(encoder_layers=(), decoder_layers=()),
  "quantize": dict(
    weights="", activations="", static=False, group=0, layers=(".",), skip=(), stored=False
  ),
  "lora": dict(rank=0, alpha=16.0, dropout=0.0, layers=("(query|value)$",), train=("^head/",)),
  "distill": dict(
    teacher="",
    which="latest",
    temperature=2.0,
    hard=0.5,
    soft=0.5,
    hidden=0.0,
    attention=0.0,
    hidden_loss="cosine",
    layers=(),
    decoder_layers=(),
    relation_heads=0,
    cache="",
    cache_top=32,
  ),
  "task": dict(
    class_weights="",
    global_attention="first",
    head_bias=True,
    source_lang="",
    target_lang="",
    lower_case=False,
    strip=False,
    dense=(),
    alpha=0.0,
    size_cap=0,
    max_epochs=0.0,
    mode="",
  ),
}
# The same, for tasks that have a setting and for those that lack it.
ADDED_WITH = {"transform": ("pool", "", "none"), "head_activation": ("rate", "", "gelu")}
# Older and present names of settings; IN_TASK: those of a task or of a part of a mixture.
RENAMED = {"step": "parallelism"}
RENAMED_IN_TASK = {"across": "cross_documents", "static": "fixed_masks"}
# Tasks with a score `accuracy`; of the others it was the share of right labels, as `right` was of
# these.
WITH_ACCURACY = ("classification", "tagging", "text_to_text")
SUMS = {"accuracy": "right", "recall": "recalled"}  # older and present names of a loss's sums
NOT_IN_TEXT_TO_TEXT = ("lowercase_scores", "bleu_tokenizer", "piece_marker")


def upgrade(config: dict) -> dict:
  """Returns the config of an older run with the present names of its settings."""
  config = _rename(config, RENAMED)
  if isinstance(config.get("tensorboard"), bool) and "loggers" not in config:
    config["loggers"] = ("tensorboard",) * config.pop("tensorboard")
  if "task" in config:
    task = config["task"] = _upgrade_task(config["task"])
    if "parts" in task:
      task["parts"] = {name: _upgrade_task(part) for name, part in task["parts"].items()}
    if isinstance(config.get("checkpoint"), dict):
      config["checkpoint"] = _upgrade_metric(config["checkpoint"], task)
  return config


def override(text: str) -> str:
  """Returns an override, KEY=VALUE, of an older setting as one of the present setting."""
  key, _, value = text.partition("=")
  if key != "tensorboard" or value.lower() not in BOOLS:
    return text
  return "loggers=" + "tensorboard" * BOOLS[value.lower()]


def _upgrade_metric(checkpoint: dict, task: dict) -> dict:
  """Returns the section `checkpoint` with the present name of its best_metric."""
  name = task.get("parts", {}).get(task.get("main"), task).get("name")
  metric = checkpoint.get("best_metric")
  if metric == "right" or (metric == "accuracy" and name not in WITH_ACCURACY):
    return checkpoint | dict(best_metric="token_accuracy")
  if metric == "recall" and name == "electra":
    return checkpoint | dict(best_metric="replaced_recall")
  return checkpoint


def metrics(values: dict) -> dict:
  """Returns the metrics of an evaluation or a log line with their present names and units."""
  old = "right" if "right" in values else "accuracy"
  if old not in values or "token_accuracy" in values:
    return values
  if old == "accuracy" and "perplexity" not in values:
    return values  # of decoded outputs alone: a score
  values = {("token_accuracy" if name == old else name): x for name, x in values.items()}
  values["token_accuracy"] *= 100.0
  if "recall" in values and "precision" not in values:  # ELECTRA's, no score of tags
    values["replaced_recall"] = 100.0 * values.pop("recall")
  return values


def sums(window: dict) -> dict:
  """Returns the sums of an unfinished window of steps with their present names."""
  return _rename(window, SUMS)


def _upgrade_task(task: dict) -> dict:
  task = _rename(task, RENAMED_IN_TASK)
  kind = task.pop("metric", "texts")  # a translation's, which stood for text_to_text too
  if kind == "texts":
    return task
  task = {key: value for key, value in task.items() if key not in NOT_IN_TEXT_TO_TEXT}
  return task | dict(name="text_to_text", kind=kind)


def _rename(section: dict, names: dict[str, str]) -> dict:
  return {names.get(key, key): value for key, value in section.items()}


def defaults(keys: Iterable[str]) -> dict[str, object]:
  """Returns those dotted keys that older runs lack, with the value that continues such a run."""
  keys, values = set(keys), {}
  for key in keys:
    sections, _, name = key.rpartition(".")
    parent, _, section = sections.rpartition(".")
    section = "task" if parent == "task.parts" else section
    if key in ADDED:
      values[key] = ADDED[key]
    elif name in ADDED_TO.get(section, {}):
      values[key] = ADDED_TO[section][name]
    elif section == "task" and name in ADDED_WITH:
      setting, value, other = ADDED_WITH[name]
      values[key] = value if f"{sections}.{setting}" in keys else other
  return values


def complete(config: ConfigDict) -> ConfigDict:
  """Returns the config of an older run with the settings of ADDED that it lacks."""
  config, known = ConfigDict(config.to_dict()), flat(config)
  config.update_from_flattened_dict({key: ADDED[key] for key in ADDED if key not in known})
  return frozen(config)
