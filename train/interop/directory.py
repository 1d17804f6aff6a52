"""Reads the parts of a run from a Hugging Face directory: model, task, labels, tokenizer,
weights."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping

from absl import logging
from flax import nnx

from model import heads
from model.config import TransformerConfig
from model.settings import LEARNED
from model.transformer import Transformer
from train.common.errors import UserError, choose
from train.data.tokenizer import Tokenizer
from train.interop import generation, peft, sentence_transformers, tokenizers_in, weights
from train.interop.families.base import POOLED, Family, Head
from train.interop.families.known import FAMILIES
from train.interop.settings import FIELDS, json_of, settings

# The two classes of next-sentence prediction: the second text follows the first one, or does not.
NEXT_SENTENCE = ("next", "random")
LONGEST = 1024  # tokens that a task reads, where the model could read more


@dataclasses.dataclass(frozen=True)
class Directory:
  """A folder with config.json, safetensors files and a tokenizer.

  Each part is read on its first access. Raises UserError, which names file and field, for a part
  that is broken or has no counterpart here.
  """

  path: pathlib.Path
  as_body: bool = False  # leaves the head out
  adapter: peft.Adapter | None = None  # of the model in the folder

  @property
  def file(self) -> pathlib.Path:
    """Returns the path of config.json."""
    return self.path / "config.json"

  @functools.cached_property
  def config(self) -> dict:
    """Returns the content of config.json, with the head of the adapter."""
    config = json_of(self.file, FIELDS, needed=True)
    return self.adapter.with_head(config, self._family_of(config)) if self.adapter else config

  @functools.cached_property
  def family(self) -> Family:
    """Returns the family of config.json's `model_type`."""
    return self._family_of(self.config)

  def _family_of(self, config) -> Family:
    family = choose(FAMILIES, config.get("model_type"), f"{self.file}: model_type")
    return family.variant(config) or family

  @functools.cached_property
  def kind(self) -> str:
    """Returns the task that the model has a head for, one of families.KINDS."""
    name = (self.config.get("architectures") or [None])[0]
    if self.as_body or name is None:  # old files name no class
      return "body"
    return choose(self.family.classes, name, f"{self.file}: the class in architectures")

  @functools.cached_property
  def tensors(self) -> weights.Tensors:
    """Returns the tensors of the safetensors files, with the updates of the adapter."""
    tensors = weights.Tensors(self.path)
    return self.adapter.over(tensors) if self.adapter else tensors

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """Returns the tokenizer, with the roles of its special tokens."""
    tokenizer = tokenizers_in.read(self.path, self.family.flat(self.config), self.options)
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
      model |= dict(tie_output=True, output_transform="none")
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

  def head_settings(self, task: Mapping) -> dict:
    """Returns the settings that the section `task` takes over for its head."""
    if "pool_activation" not in task:
      if task["name"] not in ("tagging", "qa"):
        return {}
      head = self.head_for(task["name"])
      changes = head.transform != "none"
      return dict(transform=head.transform, head_activation=head.activation) if changes else {}
    head = self.head_for("classification")
    own = dict(pool_activation=head.activation)
    if head != Head("first", head.activation, "dense") and task["pool"] in ("first", head.pool):
      own |= dict(pool=head.pool, transform=head.transform)
      own |= {} if head.bias else dict(head_bias=False)
    return own

  @functools.cached_property
  def labels(self) -> tuple[str, ...]:
    """Returns the names of classes or tags, in the order of the head's outputs."""
    if self.kind == "next_sentence":
      return NEXT_SENTENCE
    labels, count = self.config.get("id2label"), self.config.get("num_labels")
    if labels is None:
      labels = {str(number): f"LABEL_{number}" for number in range(2 if count is None else count)}
    elif count not in (None, len(labels)):
      message = "%s: num_labels is %d and id2label has %d labels, which count"
      logging.warning(message, self.file, count, len(labels))
    if sorted(labels) != sorted(map(str, range(len(labels)))):
      raise UserError(f"{self.file}: id2label has the ids {list(labels)}; they must count from 0")
    names = tuple(labels[str(number)] for number in range(len(labels)))
    if twice := [name for name in names if names.count(name) > 1]:
      raise UserError(f"{self.file}: id2label has {twice[0]!r} twice: give each label its own name")
    if (others := self.config.get("label2id")) and others != {x: i for i, x in enumerate(names)}:
      logging.warning("%s: label2id and id2label differ; id2label counts", self.file)
    return names

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
    names = [(prefix if shared and row.body else "") + row.theirs for row in rows]
    if not names or names[0] not in shapes:
      return {}
    dim = self.model["dim"]
    return {
      row.ours: (dim, dim) if row.how == "linear" else (dim,)
      for name, row in zip(names, rows)
      if name in shapes or row.switch
    }

  @property
  def pooler(self) -> bool:
    """Returns whether the body has the layers that a classifier has before its labels."""
    return bool(self._pooler)

  def task(self, pair: bool = False, strict: bool = False) -> dict:
    """Returns the section `task` of a run that only predicts, with the tokenizer object in it.

    pair: a classifier reads two texts. strict: outputs are those of transformers' generate.
    """
    pair = pair or self.kind == "next_sentence"
    if pair and self.kind not in ("classification", "next_sentence"):
      raise UserError(f"--pair: hf:{self.path} is no classifier, its kind is {self.kind}")
    learned = self.model["positions"] in LEARNED
    length = min(LONGEST, self.model["max_len"]) if learned else LONGEST
    of_decoder = min(length, self.model["decoder_max_len"] or length) if learned else length
    if self.model["decoder_layers"] and self.kind not in ("body", "causal", "translation"):
      length = of_decoder  # the decoder reads the source too
    common = dict(name=self.kind, data={}, tokenizer=self.tokenizer)
    if self.model["global_tokens"] or self.model["global_blocks"]:  # they are those of a row
      common |= dict(pack=False, global_attention=self.family.globals_for(self.kind))
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
    if self.kind not in ("causal", "translation"):
      return common | dict(source_len=length)
    section = self.generation
    if strict:
      section = generation.decoding(self.options, self.tokenizer.roles, self.model, strict)
      section["generation"] = "transformers"
      if self.model["global_tokens"]:  # generate makes no token of an LED global by itself
        common["global_attention"] = "none"
    else:
      generation.report_rule(self.path, section)
    if self.kind == "translation":
      return common | dict(source_len=length, target_len=of_decoder, decoding=section)
    total = section["max_len_total"]
    prompt = min(length, total - 1) if total else length - section["max_len_extra"]
    return common | dict(target_len=max(prompt, 1), decoding=section)

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
  def options(self) -> generation.Options:
    """Returns the options of generation."""
    return generation.read(self.path, self.family.flat(self.config))

  @contextlib.contextmanager
  def naming_options(self) -> Iterator[None]:
    """Puts the file of the options before an error in a setting that is read from them."""
    try:
      yield
    except UserError as error:
      if "task.decoding." not in str(error):
        raise
      raise UserError(f"{self.options.file}: {error}") from error

  @functools.cached_property
  def generation(self) -> dict:
    """Returns the section `decoding`, from generation_config.json or else config.json."""
    return generation.decoding(self.options, self.tokenizer.roles, self.model)


def open_directory(path: pathlib.Path, as_body: bool = False) -> Directory:
  """Opens a Hugging Face directory, or that of an adapter with the model that it adapts."""
  if not (path / peft.CONFIG).is_file():
    return Directory(path, as_body)
  adapter = peft.Adapter(path)
  return Directory(adapter.base, as_body, adapter)
