"""Reads the parts of a run from a Hugging Face directory: model, task, labels, tokenizer,
weights."""

import dataclasses
import functools
import pathlib

from absl import logging
from flax import nnx

from model import heads
from model.config import TransformerConfig
from model.settings import LEARNED
from model.transformer import Transformer
from train.common import json_files
from train.common.errors import UserError, choose
from train.data.tokenizer import Tokenizer
from train.interop import (
  bert_variant_families,
  decoder_families,
  encoder_decoder_families,
  encoder_families,
  gemma_families,
  llama_families,
  long_families,
  modern_encoder_families,
  opt_families,
  sentence_transformers,
  t5_families,
  t5gemma_families,
  tokenizers_in,
  weights,
)
from train.interop.families import POOLED, Family, Head
from train.interop.settings import FIELDS, GENERATION, json_of, settings

MODULES = (
  encoder_families,
  bert_variant_families,
  modern_encoder_families,
  decoder_families,
  llama_families,
  gemma_families,
  opt_families,
  encoder_decoder_families,
  t5_families,
  t5gemma_families,
  long_families,
)
FAMILIES = {family.model_type: family for module in MODULES for family in module.FAMILIES}
# The two classes of next-sentence prediction: the second text follows the first one, or does not.
NEXT_SENTENCE = ("next", "random")
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
    tokenizer = tokenizers_in.read(self.path, self.config)
    if not self.family.starts_with_last or self.kind not in ("classification", "qa"):
      return tokenizer
    roles = dataclasses.replace(tokenizer.roles, start=tokenizer.roles.behind[-1])
    return Tokenizer(tokenizer.copy_inner(), roles, None, tokenizer.vocab_size)

  @functools.cached_property
  def model(self) -> dict:
    """Returns the section `model` of a config."""
    model = settings(self.config, self.family, self.tensors, self.file)
    weights.check_sizes(self.tensors, self.family, model, self.file)
    if self.kind not in ("mlm", "translation"):  # the others have no head with this bias
      model["output_bias"] = False
    if self.kind not in ("mlm", "translation", "causal"):
      model["tie_output"] = True
    return model

  @functools.cached_property
  def head(self) -> Head:
    """Returns the layers of the head; of a body, those of a classifier."""
    return self.head_for("classification" if self.kind == "body" else self.kind)

  def head_for(self, kind: str) -> Head:
    """Returns the layers of the head that the family has for `kind`."""
    try:
      return self.family.head(self.config, kind, self.model["activation"])
    except (KeyError, TypeError) as error:
      raise UserError(f"{self.file}: {error} is not known here, in a setting of the head") from None

  @functools.cached_property
  def labels(self) -> tuple[str, ...]:
    """Returns the names of classes or tags, in the order of the head's outputs."""
    if self.kind == "next_sentence":
      return NEXT_SENTENCE
    labels = self.config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    if sorted(labels) != sorted(map(str, range(len(labels)))):
      raise UserError(f"{self.file}: id2label has the ids {list(labels)}; they must count from 0")
    return tuple(labels[str(number)] for number in range(len(labels)))

  def build(self) -> Transformer:
    """Builds the model with its head and random weights."""
    cfg, rngs = TransformerConfig(**self.model), nnx.Rngs(0)
    model = Transformer(cfg, rngs=rngs)
    head, count = self.head, dict(qa=2, replaced=1, choice=1).get(self.kind)
    if self.kind == "mlm":
      model.head = heads.MaskedLmHead(cfg, activation=head.activation, rngs=rngs)
    elif self.kind in (*POOLED, "tagging", "qa", "replaced"):
      model.head = heads.LabelHead(cfg, count or len(self.labels), **head._asdict(), rngs=rngs)
    return model

  @functools.cached_property
  def modules(self) -> sentence_transformers.Modules:
    """Returns how a text becomes one vector, by sentence-transformers' files if there are any."""
    return sentence_transformers.read(self.path, self.model["dim"])

  @functools.cached_property
  def params(self) -> dict[str, weights.Weight]:
    """Returns path -> weight, read when numpy converts it. The pooler of a model without a head is
    `head/dense`, as in a classifier."""
    shapes = weights.weight_shapes(self.build) | self._pooler
    read = (self.tensors, self.family, self.kind, self.model, shapes, self.config)
    projects = self.kind == "body" and not self.as_body
    return weights.read(*read) | (self.modules.params() if projects else {})

  @property
  def _pooler(self) -> dict[str, tuple[int, ...]]:
    """Returns path -> shape of the layers of a body that a classifier has before its labels."""
    if self.kind != "body":
      return {}
    shapes, rows = self.tensors.shapes, self.family.heads.get("body", ())
    prefix = self.family.prefix
    shared = any(name.startswith(prefix) for name in shapes)
    there = [shapes.get((prefix if shared and row.body else "") + row.theirs) for row in rows]
    if not all(there[:1]):
      return {}
    dim = self.model["dim"]
    return {row.ours: (dim, dim) if row.how == "linear" else (dim,) for row in rows}

  @property
  def pooler(self) -> bool:
    """Returns whether the body has the layers that a classifier has before its labels."""
    return bool(self._pooler)

  def task(self, pair: bool = False) -> dict:
    """Returns the section `task` of a run that only predicts, with the tokenizer object in it;
    `pair`: a classifier reads two texts."""
    pair = pair or self.kind == "next_sentence"
    if pair and self.kind not in ("classification", "next_sentence"):
      raise UserError(f"--pair: hf:{self.path} is no classifier, its kind is {self.kind}")
    learned = self.model["positions"] in LEARNED
    length = min(LONGEST, self.model["max_len"]) if learned else LONGEST
    common = dict(name=self.kind, data={}, tokenizer=self.tokenizer)
    if self.model["global_tokens"] or self.model["global_blocks"]:  # they are those of a row
      common |= dict(
        pack=False, global_attention=self.family.global_attention.get(self.kind, "first")
      )
    if self.kind == "body":
      if not self.model["encoder_layers"]:
        raise UserError(f"hf:{self.path} is a decoder without a head, which predicts nothing")
      return common | dict(name="embedding") | self.modules.settings(length)
    if self.kind in POOLED:
      pool, activation, transform, bias = self.head
      common |= dict(pool=pool, pool_activation=activation, transform=transform)
      common |= {} if bias else dict(head_bias=False)
    else:
      common |= self._token_head()
    if self.kind == "choice":
      return common | dict(source_len=length, choice_len=length)
    if self.kind in POOLED:
      common |= self._classes() | dict(fields=("text", "text_pair") if pair else ("text",))
    if self.kind == "tagging":
      common |= dict(labels=self.labels)
    if self.kind in ("tagging", "qa"):
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

  def _token_head(self) -> dict:
    """Returns the settings of a head for tokens."""
    own = dict(head_activation=self.head.activation)
    if self.kind in ("tagging", "qa"):
      return own | dict(transform=self.head.transform)
    return own if self.kind in ("mlm", "replaced") else {}

  def _classes(self) -> dict:
    """Returns a classifier's objective with its labels."""
    if self.kind == "next_sentence":
      return dict(name="classification", labels=self.labels)
    if self.problem == "multi_label_classification":
      return dict(name="multi_label", labels=self.labels)
    if self.problem == "regression" and len(self.labels) > 1:
      return dict(name="numbers", targets=self.labels)
    regression = self.problem == "regression"
    return dict(labels=() if regression else self.labels, regression=regression)

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
