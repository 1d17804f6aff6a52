"""hf:DIR, a Hugging Face directory, as a trained run: model, task, labels, tokenizer, weights."""

import dataclasses
import functools
import os
import pathlib

import jax
from absl import logging
from flax import nnx

from model import heads
from model.config import TransformerConfig
from model.transformer import Transformer
from train.common import json_files
from train.common.errors import UserError
from train.common.trees import path_name
from train.interop import (
  decoder_families,
  encoder_decoder_families,
  encoder_families,
  tokenizers_in,
  weights,
)
from train.interop.families import Family
from train.interop.settings import FIELDS, GENERATION, json_of, settings

PREFIX = "hf:"
FAMILIES = {
  family.model_type: family
  for family in (
    encoder_families.BERT,
    encoder_families.ROBERTA,
    encoder_families.DISTILBERT,
    encoder_families.ELECTRA,
    encoder_families.ESM,
    decoder_families.GPT2,
    decoder_families.LLAMA,
    encoder_decoder_families.T5,
    encoder_decoder_families.MT5,
    encoder_decoder_families.BART,
    encoder_decoder_families.MBART,
    encoder_decoder_families.MARIAN,
    encoder_decoder_families.PEGASUS,
  )
}
MODULES = ("Transformer", "Pooling", "Normalize")  # sentence-transformers'
LONGEST = 1024  # tokens that a task reads of a model that could read more
LONGEST_OUTPUT = 1 << 20  # tokens of all beams; a file that says more would fill the memory
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
  exponential_decay_length_penalty=None,
  typical_p=1.0,
  min_p=None,
  epsilon_cutoff=0.0,
  sequence_bias=None,
)

STOPS = {False: "current", True: "full", "never": "exact"}  # of early_stopping


def is_one(run: str | os.PathLike) -> bool:
  """Whether what was given for a run's folder is such a directory."""
  return str(run).startswith(PREFIX)


def open_directory(run: str, *, body: bool = False) -> "Directory":
  """hf:DIR; UserError naming the file and field for what has no counterpart here."""
  return Directory(pathlib.Path(str(run).removeprefix(PREFIX)).expanduser(), body)


@dataclasses.dataclass(frozen=True)
class Directory:
  """A folder with config.json, safetensors files and a tokenizer."""

  path: pathlib.Path
  as_body: bool = False  # heads are left out, whatever it is for

  @functools.cached_property
  def config(self) -> dict:
    found = json_of(self.path / "config.json", needed=True)
    json_files.check(found, self.path / "config.json", FIELDS)
    return found

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
    if self.as_body or named is None:  # old files do not say
      return "body"
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
    return tokenizers_in.read(self.path, self.config)

  @functools.cached_property
  def model(self) -> dict:
    """The section `model` of a config."""
    where = self.path / "config.json"
    found = settings(self.config, self.family, self.tensors, where)
    weights.check_sizes(self.tensors, self.family, found, where)
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
    if sorted(named) != sorted(map(str, range(len(named)))):
      raise UserError(
        f"{self.path / 'config.json'}: id2label numbers its labels {list(named)}, not from 0 on"
      )
    return tuple(named[str(number)] for number in range(len(named)))

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
    named = any(name.endswith("pooler.dense.weight") for name in self.tensors.shapes)
    if self.kind == "body" and named and self.family.heads.get("body"):
      dim = self.model["dim"]
      shapes |= {"head/dense/kernel": (dim, dim), "head/dense/bias": (dim,)}
    return weights.read(self.tensors, self.family, self.kind, self.model["gated"], shapes)

  @property
  def pooler(self) -> bool:
    """Whether a classifier may go on from the body's dense layer in front of the labels."""
    return self.kind == "body" and "head/dense/kernel" in self.params

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
      return common | dict(name="embedding", source_len=length) | self._pooling()
    if self.kind == "classification":
      if self.config.get("problem_type") == "multi_label_classification":
        raise UserError(
          f"{self.path / 'config.json'}: problem_type is multi_label_classification; here an"
          " example has one label"
        )
      number = len(self.labels) == 1
      if not number and self.config.get("problem_type") == "regression":
        raise UserError(
          f"{self.path / 'config.json'}: problem_type is regression with {len(self.labels)} labels;"
          " here a regression has one number"
        )
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
    listed = json_of(self.path / "modules.json", of=list[dict])
    kinds = [str(one.get("type", "")).split(".")[-1] for one in listed]
    pooling = json_of(self.path / "1_Pooling" / "config.json")
    mode = {"cls": "cls_token", "mean": "mean_tokens"}.get(str(pooling.get("pooling_mode")))
    used = {key.removeprefix("pooling_mode_") for key, value in pooling.items() if value is True}
    used = {mode} if mode else (used - {"include_prompt"}) or {"mean_tokens"}
    unknown = sorted(used - {"mean_tokens", "cls_token"}) + sorted(set(kinds) - set(MODULES))
    if unknown or len(used) > 1:
      raise UserError(
        f"{self.path}: how sentence-transformers' files make a vector has no counterpart here"
        f" ({', '.join(unknown) or ', '.join(sorted(used))}); there are the mean and the first"
        " token's, of length 1 or not"
      )
    found = dict(pool="first" if used == {"cls_token"} else "mean")
    found["normalize"] = not kinds or "Normalize" in kinds
    file = self.path / "sentence_bert_config.json"
    told = json_of(file)
    json_files.check(told, file, dict(max_seq_length=int))
    longest = told.get("max_seq_length") or 0
    if not 0 <= longest <= LONGEST_OUTPUT:
      raise UserError(f"{file}: max_seq_length is {longest}; it must be 1 to {LONGEST_OUTPUT}")
    return found | ({"source_len": longest} if longest else {})

  @functools.cached_property
  def generation(self) -> dict:
    """The section `decoding`, as generation_config.json or else config.json says."""
    file = self.path / "generation_config.json"
    told = json_of(file) or self.config
    json_files.check(told, file, GENERATION)
    ignored = {k: told[k] for k, usual in UNFOLLOWED.items() if told.get(k) not in (usual, None)}
    roles = self.tokenizer.roles
    if set(ignored.get("suppress_tokens", ())) <= {roles.pad, roles.start}:
      ignored.pop("suppress_tokens", None)  # these are never chosen
    if ignored:
      shown = ", ".join(f"{key}={value}" for key, value in ignored.items())
      logging.warning("%s: generation here does not follow %s", self.path, shown)
    sampled = bool(told.get("do_sample"))
    both = bool(self.model["encoder_layers"])
    # max_length counts the token that the decoder begins with
    longest = told.get("max_new_tokens") or ((told.get("max_length") or 129) - 1 if both else 50)
    if self.model["positions"] == "learned":  # a decoder alone has its prompt in them too
      longest = min(longest, self.model["max_len"] - 1 if both else self.model["max_len"] // 2)
    beam = 1 if sampled else told.get("num_beams") or 1
    if min(beam, longest) < 1 or beam * longest > LONGEST_OUTPUT:
      raise UserError(
        f"{file} or config.json: num_beams is {beam}, the longest output {longest} tokens"
        f" (max_new_tokens, max_length); both together must be 1 to {LONGEST_OUTPUT} tokens"
      )
    return dict(
      beam=beam,
      length_penalty=told.get("length_penalty") or 0.0 if "length_penalty" in told else 1.0,
      penalty="length",
      stop=STOPS.get(told.get("early_stopping") or False, "current"),
      temperature=(told.get("temperature") or 1.0) if sampled else 0.0,
      top_k=(told.get("top_k") or 0) if sampled else 0,
      top_p=(told.get("top_p") or 1.0) if sampled else 1.0,
      max_len_ratio=0.0,
      max_len_extra=longest,
    )
