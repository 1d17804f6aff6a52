"""hf:DIR, a Hugging Face directory, as a trained run: model, task, labels, tokenizer, weights."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Mapping

import jax
from absl import logging
from flax import nnx

from model import heads
from model.config import TransformerConfig
from model.transformer import Transformer
from train.errors import UserError, nearest
from train.interop import decoders, encoder_decoders, encoders, vocabulary, weights
from train.interop.families import GENERIC, Family
from train.optimizer import path_name

PREFIX = "hf:"
FAMILIES = {
  family.model_type: family
  for family in (
    encoders.BERT,
    encoders.ROBERTA,
    encoders.DISTILBERT,
    encoders.ELECTRA,
    encoders.ESM,
    decoders.GPT2,
    decoders.LLAMA,
    encoder_decoders.T5,
    encoder_decoders.MT5,
    encoder_decoders.BART,
    encoder_decoders.MBART,
    encoder_decoders.MARIAN,
    encoder_decoders.PEGASUS,
  )
}
LONGEST = 512  # tokens that a task reads of a model that could read more
# Rules of generation that are not followed here, and what they are where they do nothing.
UNFOLLOWED = dict(
  no_repeat_ngram_size=0,
  encoder_no_repeat_ngram_size=0,
  min_length=0,
  min_new_tokens=None,
  repetition_penalty=1.0,
  suppress_tokens=None,
  begin_suppress_tokens=None,
  num_beam_groups=1,
  diversity_penalty=0.0,
)

STOPS = {False: "current", True: "full", "never": "exact"}  # of early_stopping


def is_one(run: str | os.PathLike) -> bool:
  """Whether what was given for a run's folder is such a directory."""
  return str(run).startswith(PREFIX)


@functools.cache
def open_directory(run: str) -> "Directory":
  """hf:DIR; UserError naming the file and field for what has no counterpart here."""
  return Directory(pathlib.Path(str(run).removeprefix(PREFIX)).expanduser())


@dataclasses.dataclass(frozen=True)
class Directory:
  """A folder with config.json, safetensors files and a tokenizer."""

  path: pathlib.Path

  @functools.cached_property
  def config(self) -> dict:
    return _json(self.path / "config.json", needed=True)

  @functools.cached_property
  def family(self) -> Family:
    name = self.config.get("model_type")
    if name not in FAMILIES:
      raise UserError(
        f"{self.path / 'config.json'}: model_type is {name!r}; those supported are"
        f" {', '.join(FAMILIES)}"
      )
    return FAMILIES[name]

  @functools.cached_property
  def kind(self) -> str:
    """What the model is for: one of families.KINDS."""
    classes = self.family.classes
    named = (self.config.get("architectures") or [None])[0]
    if named not in classes:
      raise UserError(
        f"{self.path / 'config.json'}: architectures names {named}; of {self.family.model_type}"
        f" there are {', '.join(classes)}"
      )
    return classes[named]

  @functools.cached_property
  def tensors(self) -> weights.Tensors:
    return weights.Tensors(self.path)

  @functools.cached_property
  def tokenizer(self):
    return vocabulary.read(self.path, self.config)

  @functools.cached_property
  def model(self) -> dict:
    """The section `model` of a config."""
    found = settings(self.config, self.family, self.tensors, self.path / "config.json")
    if self.kind not in ("mlm", "translation"):  # its bias is a masked-LM head's
      found["output_bias"] = False
    if self.kind not in ("mlm", "translation", "causal"):
      found["tie_output"] = True
    wanted = self.family.mlm_activation
    if self.kind == "mlm" and wanted and found["activation"] != wanted:
      raise UserError(
        f"{self.path / 'config.json'}: hidden_act is not {wanted}, which the masked-LM head of a"
        f" {self.family.model_type} has in any case; here both are one setting"
      )
    return found

  @functools.cached_property
  def labels(self) -> tuple[str, ...]:
    """Names of classes or tags, in the order of the head's outputs."""
    named = self.config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return tuple(named[key] for key in sorted(named, key=int))

  def build(self) -> Transformer:
    """The model with its head, its weights at random."""
    cfg, rngs = TransformerConfig(**self.model), nnx.Rngs(0)
    model = Transformer(cfg, rngs=rngs)
    if self.kind == "mlm":
      model.head = heads.MaskedLmHead(cfg, rngs=rngs)
    if self.kind in ("classification", "tagging", "qa"):
      count = 2 if self.kind == "qa" else len(self.labels)
      pool = "first" if self.kind == "classification" else "token"
      act = self.family.pool_activation
      model.head = heads.LabelHead(cfg, count, pool=pool, activation=act, rngs=rngs)
    return model

  @functools.cached_property
  def params(self) -> dict[str, weights.Weight]:
    """path -> weight, read when numpy asks for it. Of a body alone also its pooler's, as a
    classifier's `head/dense`."""
    state = nnx.to_pure_dict(nnx.state(nnx.eval_shape(self.build)))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    shapes = {path_name(path): leaf.shape for path, leaf in leaves}
    if self.kind == "body" and any("pooler.dense" in name for name in self.tensors.shapes):
      dim = self.model["dim"]
      shapes |= {"head/dense/kernel": (dim, dim), "head/dense/bias": (dim,)}
    return weights.read(self.tensors, self.family, self.kind, self.model["gated"], shapes)

  @property
  def pooler(self) -> bool:
    """Whether a classifier may go on from the dense layer in front of the labels."""
    return self.kind in ("body", "classification") and "head/dense/kernel" in self.params

  def task(self, pair: bool = False) -> dict:
    """The section `task` of a run that only predicts, with the tokenizer itself in it; `pair`: what
    it classifies are two texts."""
    if pair and self.kind != "classification":
      raise UserError(f"--pair: hf:{self.path} is no classifier, but for {self.kind}")
    length = LONGEST
    if self.model["positions"] == "learned":
      length = min(length, self.model["max_len"])
    common = dict(name=self.kind, data={}, tokenizer=self.tokenizer)
    if self.kind == "body":
      if not self.model["encoder_layers"]:
        raise UserError(f"hf:{self.path} is a decoder without a head: it has nothing to say")
      common |= dict(name="embedding", **self._pooling())
    if self.kind == "classification":
      if self.config.get("problem_type") == "multi_label_classification":
        raise UserError(
          f"{self.path / 'config.json'}: problem_type is multi_label_classification; here an"
          " example has one label"
        )
      number = len(self.labels) == 1 or self.config.get("problem_type") == "regression"
      common |= dict(
        labels=() if number else self.labels,
        regression=number,
        fields=("text", "text_pair") if pair else ("text",),
        pool_activation=self.family.pool_activation,
      )
    if self.kind == "tagging":
      common |= dict(labels=self.labels, stride=length // 2)
    if self.kind == "qa":
      common |= dict(stride=length // 2)
    if self.kind == "causal":
      words = self.generation["max_len_extra"]
      return common | dict(target_len=max(length - words, 1), decoding=self.generation)
    if self.kind == "translation":
      return common | dict(source_len=length, target_len=length, decoding=self.generation)
    return common | dict(source_len=length)

  def _pooling(self) -> dict:
    """How sentence-transformers' files, if there are any, make a vector of a text."""
    pooling = _json(self.path / "1_Pooling" / "config.json")
    first = pooling.get("pooling_mode_cls_token") or pooling.get("pooling_mode") == "cls"
    return dict(pool="first" if first else "mean")

  @functools.cached_property
  def generation(self) -> dict:
    """The section `decoding`, as generation_config.json or else config.json says."""
    told = _json(self.path / "generation_config.json") or self.config
    ignored = {k: told[k] for k, usual in UNFOLLOWED.items() if told.get(k) not in (usual, None)}
    if ignored:
      shown = ", ".join(f"{key}={value}" for key, value in ignored.items())
      logging.warning("%s: generation here does not follow %s", self.path, shown)
    sampled = bool(told.get("do_sample"))
    both = bool(self.model["encoder_layers"])
    # max_length counts the token that the decoder begins with
    longest = told.get("max_new_tokens") or (told.get("max_length", 129) - 1 if both else 50)
    if self.model["positions"] == "learned":  # a decoder alone has its prompt in them too
      longest = min(longest, self.model["max_len"] - 1 if both else self.model["max_len"] // 2)
    return dict(
      beam=1 if sampled else told.get("num_beams") or 1,
      length_penalty=told.get("length_penalty", 1.0),
      penalty="length",
      stop=STOPS[told.get("early_stopping") or False],
      temperature=(told.get("temperature") or 1.0) if sampled else 0.0,
      top_k=(told.get("top_k") or 0) if sampled else 0,
      top_p=(told.get("top_p") or 1.0) if sampled else 1.0,
      max_len_ratio=0.0,
      max_len_extra=longest,
    )


def settings(config: Mapping, family: Family, tensors, where) -> dict:
  """The fields of TransformerConfig that a config.json says; UserError for what it cannot say."""
  known = {*GENERIC, *family.ignored, *family.fixed}
  found = dict(family.constants)
  for one in family.settings:
    known |= set(one.theirs)
    values = [config.get(name, one.default) for name in one.theirs]
    if any(value != values[0] for value in values):
      told = " and ".join(f"{name} is {value}" for name, value in zip(one.theirs, values))
      raise UserError(f"{where}: {told}; here they are one number, model.{one.ours}")
    try:
      found[one.ours] = one.to_ours(values[0])
    except (KeyError, TypeError):
      raise UserError(
        f"{where}: {one.theirs[0]} is {values[0]!r}, which is not known here"
      ) from None
  for name, value in family.fixed.items():
    if config.get(name, value) not in (value, value or None):
      raise UserError(f"{where}: {name} is {config[name]!r}; here there is only {value!r}")
  if unknown := config.keys() - known:
    name = min(unknown)
    near = nearest(name, known)
    raise UserError(
      f"{where}: {name}={config[name]!r} has no counterpart here"
      + (f" (did you mean {near}?)" if near else "")
      + "; take it out of the file if it changes no output"
    )
  try:
    found |= family.read(config, tensors)
  except UserError as error:
    raise UserError(f"{where}: {error}") from None
  fields = {field.name: field.default for field in dataclasses.fields(TransformerConfig)}
  try:
    return dataclasses.asdict(TransformerConfig(**fields | found))
  except (TypeError, ValueError) as error:
    raise UserError(f"{where}: {error}") from error


def _json(path: pathlib.Path, needed: bool = False) -> dict:
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    if needed:
      raise UserError(f"{path}: no such file; hf:DIR is a Hugging Face directory") from None
    return {}
  except (OSError, ValueError) as error:
    raise UserError(f"{path}: cannot be read as JSON ({error})") from error
  if not isinstance(found, dict):
    raise UserError(f"{path}: holds no JSON object")
  return found
