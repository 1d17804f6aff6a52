"""Reads the parts of a run from a Hugging Face directory: model, task, labels, tokenizer,
weights."""

import dataclasses
import functools
import pathlib

from absl import logging
from flax import nnx

from model import heads
from model.config import TransformerConfig
from model.transformer import Transformer
from train.common import json_files
from train.common.errors import UserError, choose
from train.data.tokenizer import Tokenizer
from train.interop import (
  decoder_families,
  encoder_decoder_families,
  encoder_families,
  gemma_families,
  llama_families,
  t5gemma_families,
  tokenizers_in,
  weights,
)
from train.interop.families import Family
from train.interop.settings import FIELDS, GENERATION, json_of, settings

TABLES = (encoder_families, decoder_families, llama_families, gemma_families)
TABLES += (encoder_decoder_families, t5gemma_families)
FAMILIES = {family.model_type: family for module in TABLES for family in module.FAMILIES}
MODULES = ("Transformer", "Pooling", "Normalize")  # of sentence-transformers
LONGEST = 1024  # tokens that a task reads, where the model could read more
LONGEST_OUTPUT = 1 << 20  # tokens of all beams; a file with more would fill the memory
# Options of generation that have no counterpart here -> the value with which they do nothing.
UNSUPPORTED = dict(
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

STOPS = {False: "current", True: "full", "never": "exact"}  # early_stopping -> decoding.stop


@dataclasses.dataclass(frozen=True)
class Directory:
  """A folder with config.json, safetensors files and a tokenizer.

  Each part is read on its first access. Raises UserError, which names file and field, for a part
  that is broken or has no counterpart here.
  """

  path: pathlib.Path
  as_body: bool = False  # leaves the head out

  @property
  def file(self) -> pathlib.Path:
    """Returns the path of config.json."""
    return self.path / "config.json"

  @functools.cached_property
  def config(self) -> dict:
    """Returns the content of config.json."""
    return json_of(self.file, FIELDS, needed=True)

  @functools.cached_property
  def family(self) -> Family:
    """Returns the family of config.json's `model_type`."""
    return choose(FAMILIES, self.config.get("model_type"), f"{self.file}: model_type")

  @functools.cached_property
  def kind(self) -> str:
    """Returns the task that the model has a head for, one of families.KINDS."""
    name = (self.config.get("architectures") or [None])[0]
    if self.as_body or name is None:  # old files name no class
      return "body"
    return choose(self.family.classes, name, f"{self.file}: the class in architectures")

  @functools.cached_property
  def tensors(self) -> weights.Tensors:
    """Returns the tensors of the safetensors files."""
    return weights.Tensors(self.path)

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """Returns the tokenizer, with the roles of its special tokens."""
    return tokenizers_in.read(self.path, self.config)

  @functools.cached_property
  def model(self) -> dict:
    """Returns the section `model` of a config."""
    model = settings(self.config, self.family, self.tensors, self.file)
    weights.check_sizes(self.tensors, self.family, model, self.file)
    if self.kind not in ("mlm", "translation"):  # the others have no head with this bias
      model["output_bias"] = False
    if self.kind not in ("mlm", "translation", "causal"):
      model["tie_output"] = True
    activation = self.family.mlm_activation
    if self.kind == "mlm" and activation and model["activation"] != activation:
      raise UserError(
        f"{self.file}: hidden_act is {model['activation']}, but the masked-LM head of a"
        f" {self.family.model_type} always has {activation}; here both are one setting"
      )
    return model

  @functools.cached_property
  def labels(self) -> tuple[str, ...]:
    """Returns the names of classes or tags, in the order of the head's outputs."""
    labels = self.config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    if sorted(labels) != sorted(map(str, range(len(labels)))):
      raise UserError(f"{self.file}: id2label has the ids {list(labels)}; they must count from 0")
    return tuple(labels[str(number)] for number in range(len(labels)))

  def build(self) -> Transformer:
    """Builds the model with its head and random weights."""
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
    """Returns path -> weight, read when numpy converts it. The pooler of a model without a head is
    `head/dense`, as in a classifier."""
    shapes = weights.weight_shapes(self.build)
    pools = any(name.endswith("pooler.dense.weight") for name in self.tensors.shapes)
    if self.kind == "body" and pools and self.family.heads.get("body"):
      dim = self.model["dim"]
      shapes |= {"head/dense/kernel": (dim, dim), "head/dense/bias": (dim,)}
    return weights.read(self.tensors, self.family, self.kind, self.model["gated"], shapes)

  @property
  def pooler(self) -> bool:
    """Returns whether the body has the dense layer that a classifier has before its labels."""
    return self.kind == "body" and "head/dense/kernel" in self.params

  def task(self, pair: bool = False) -> dict:
    """Returns the section `task` of a run that only predicts, with the tokenizer object in it;
    `pair`: a classifier reads two texts."""
    if pair and self.kind != "classification":
      raise UserError(f"--pair: hf:{self.path} is no classifier, its kind is {self.kind}")
    learned = self.model["positions"] == "learned"
    length = min(LONGEST, self.model["max_len"]) if learned else LONGEST
    common = dict(name=self.kind, data={}, tokenizer=self.tokenizer)
    if self.kind == "body":
      if not self.model["encoder_layers"]:
        raise UserError(f"hf:{self.path} is a decoder without a head, which predicts nothing")
      return common | dict(name="embedding", source_len=length) | self._pooling()
    if self.kind == "classification":
      common |= self._classes() | dict(
        fields=("text", "text_pair") if pair else ("text",),
        pool_activation=self.family.pool_activation,
      )
    if self.kind == "tagging":
      common |= dict(labels=self.labels, stride=length // 2)
    if self.kind == "qa":
      common |= dict(stride=length // 2)
    if self.kind == "causal":
      prompt = max(length - self.generation["max_len_extra"], 1)
      return common | dict(target_len=prompt, decoding=self.generation)
    if self.kind == "translation":
      return common | dict(source_len=length, target_len=length, decoding=self.generation)
    return common | dict(source_len=length)

  @property
  def problem(self) -> str:
    """Returns what a classifier's labels are, in transformers' words, "" for one class a text."""
    problem = self.config.get("problem_type")
    if problem == "multi_label_classification":
      return problem
    return "regression" if problem == "regression" or len(self.labels) == 1 else ""

  def _classes(self) -> dict:
    """Returns a classifier's objective with its labels."""
    if self.problem == "multi_label_classification":
      return dict(name="multi_label", labels=self.labels)
    if self.problem == "regression" and len(self.labels) > 1:
      return dict(name="numbers", targets=self.labels)
    regression = self.problem == "regression"
    return dict(labels=() if regression else self.labels, regression=regression)

  def _pooling(self) -> dict:
    """Returns how a text becomes one vector, by sentence-transformers' files if there are any."""
    file = self.path / "modules.json"
    modules = json_files.read(file, list[dict]) if file.exists() else []
    kinds = {str(module.get("type", "")).split(".")[-1] for module in modules}
    pooling = json_of(self.path / "1_Pooling" / "config.json", {})
    mode = {"cls": "cls_token", "mean": "mean_tokens"}.get(str(pooling.get("pooling_mode")))
    used = {key.removeprefix("pooling_mode_") for key, value in pooling.items() if value is True}
    used = {mode} if mode else (used - {"include_prompt"}) or {"mean_tokens"}
    unknown = sorted(used - {"mean_tokens", "cls_token"}) + sorted(kinds - set(MODULES))
    if unknown or len(used) > 1:
      raise UserError(
        f"{self.path}: the pooling of sentence-transformers' files has no counterpart here"
        f" ({', '.join(unknown or sorted(used))}); supported are the mean and the first"
        " token, normalized or not"
      )
    pool = "first" if used == {"cls_token"} else "mean"
    section = dict(pool=pool, normalize=not kinds or "Normalize" in kinds)
    file = self.path / "sentence_bert_config.json"
    longest = json_of(file, dict(max_seq_length=int)).get("max_seq_length") or 0
    if not 0 <= longest <= LONGEST_OUTPUT:
      raise UserError(f"{file}: max_seq_length is {longest}; it must be 1 to {LONGEST_OUTPUT}")
    return section | ({"source_len": longest} if longest else {})

  @functools.cached_property
  def generation(self) -> dict:
    """Returns the section `decoding`, from generation_config.json or else config.json."""
    file = self.path / "generation_config.json"
    given = json_of(file, {}) or self.config
    json_files.check(given, file, GENERATION)
    unsupported = {
      key: given[key]
      for key, neutral in UNSUPPORTED.items()
      if given.get(key) not in (neutral, None)
    }
    roles = self.tokenizer.roles
    if set(unsupported.get("suppress_tokens", ())) <= {roles.pad, roles.start}:
      unsupported.pop("suppress_tokens", None)  # decoding here never chooses these
    if unsupported:
      message = "%s: no counterpart of these options of generation, which are left out: %s"
      options = ", ".join(f"{key}={value}" for key, value in unsupported.items())
      logging.warning(message, self.path, options)
    sampled = bool(given.get("do_sample"))
    both = bool(self.model["encoder_layers"])
    # max_length counts the token that the decoder starts with
    usual = (given.get("max_length") or 129) - 1 if both else 50
    longest = given.get("max_new_tokens") or usual
    if self.model["positions"] == "learned":  # a decoder-only model has its prompt in them too
      longest = min(longest, self.model["max_len"] - 1 if both else self.model["max_len"] // 2)
    beam = 1 if sampled else given.get("num_beams") or 1
    if min(beam, longest) < 1 or beam * longest > LONGEST_OUTPUT:
      raise UserError(
        f"{file} or config.json: num_beams is {beam}, the longest output {longest} tokens"
        f" (max_new_tokens, max_length); both together must be 1 to {LONGEST_OUTPUT} tokens"
      )
    return dict(
      beam=beam,
      length_penalty=given.get("length_penalty") or 0.0 if "length_penalty" in given else 1.0,
      penalty="length",
      stop=STOPS.get(given.get("early_stopping") or False, "current"),
      temperature=(given.get("temperature") or 1.0) if sampled else 0.0,
      top_k=(given.get("top_k") or 0) if sampled else 0,
      top_p=(given.get("top_p") or 1.0) if sampled else 1.0,
      max_len_ratio=0.0,
      max_len_extra=longest,
    )
