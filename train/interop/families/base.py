"""Defines what a family of Hugging Face's models is: a table of tensors and a table of settings.

Each table serves to import and to export. A family is one value of config.json's `model_type`; the
tables are in the files beside this one.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

# The tasks that a model can have a head for; a "body" has none. "replaced" marks the tokens that
# another model has put in (ELECTRA), "choice" scores the choices of an example one by one.
KINDS = ("body", "mlm", "classification", "tagging", "qa", "causal", "translation")
KINDS += ("replaced", "next_sentence", "choice")
MOST_QUESTION = 512  # tokens of a question that may be global (Longformer)
POOLED = ("classification", "next_sentence", "choice")  # a text has one state


class Head(NamedTuple):
  """The layers between an encoder and its labels, or its words (model/heads.py)."""

  pool: str = "token"
  activation: str = "tanh"
  transform: str = "none"
  bias: bool = True


class Row(NamedTuple):
  """A tensor of theirs and the weight of ours with the same numbers; {} is the number of a layer.

  how: "linear", theirs is [out, in] and ours [in..., out...]; "conv", theirs is [in, out];
  "vector", theirs has one axis (or one more of size 1 in front); "conv1d", theirs is [out, in,
  width] and ours [width * in, out]; "gain", as "vector", and ours is 1 larger; "same". `part` of
  `parts` equal pieces of the tensor, along its outputs, is the weight (fused projections), or with
  `by_head` of the pieces of each head.
  """

  theirs: str
  ours: str
  how: str
  part: int | None = None
  body: bool = True  # in a model with a head, the tensor's name has the family's prefix
  parts: int = 3
  # A field of config.json that is False, and its default, where there is no such tensor: here the
  # weight is zeros.
  switch: tuple[str, bool] | None = None
  by_head: bool = False
  # A table whose first row is added to each row of the tensor; it is written as zeros.
  plus: str = ""


class Setting(NamedTuple):
  """A field of config.json, or several that must be equal, and a field of TransformerConfig."""

  theirs: tuple[str, ...]
  ours: str
  default: Any  # the value of theirs if config.json has none
  to_ours: Callable = lambda value: value
  to_theirs: Callable = lambda value: value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """A `model_type`. Tensors that no row names must match `copies`, `computed` or `left_out`."""

  model_type: str
  prefix: str  # of the body's tensors, in a model with a head
  prefixes: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of kinds with another
  classes: Mapping[str, str]  # architecture -> kind; the first of a kind is exported
  settings: tuple[Setting, ...]
  constants: Mapping[str, Any]  # our field -> the value that all models of the family have
  fixed: Mapping[str, Any]  # their field -> the only value that has a counterpart here
  rows: tuple[Row, ...]
  heads: Mapping[str, tuple[Row, ...]]
  # Our setting -> rows that replace some of `rows` and `heads` where it is on, as in gated layers.
  rows_with: Mapping[str, tuple[Row, ...]] = dataclasses.field(default_factory=dict)
  bare: tuple[str, ...] = ("body",)  # kinds of models whose tensors are without the prefix
  # For fields that no table can express: (config.json, tensors) -> our fields; ours -> theirs.
  read: Callable[[Mapping, Any], dict] = lambda config, tensors: {}
  write: Callable[[Mapping], dict] = lambda model: {}
  # config.json with the fields, of its sections too, that tokenizers and generation are read by
  flat: Callable[[Mapping], Mapping] = lambda config: config
  ignored: tuple[str, ...] = ()  # their fields that change no output
  copies: Mapping[str, str] = dataclasses.field(default_factory=dict)  # tensor -> its original
  computed: str = r"^$"  # pattern of the tensors that are computed, not learned (and BUFFERS)
  make: Callable[[Mapping], dict] = lambda model: {}  # the computed tensors that files hold
  tables: Callable[[Mapping], dict] = lambda model: {}  # those that files may hold, to compare
  # A weight's tensor where outputs are tied -> the one that counts where they are not.
  untied: Mapping[str, str] = dataclasses.field(default_factory=dict)
  # (config.json, path of a weight of ours) -> factor on the tensor's numbers
  factor: Callable[[Mapping, str], float] = lambda config, path: 1.0
  left_out: str = r"^$"  # pattern of the tensors of heads that nothing here uses
  pool_activation: str = "tanh"  # of the classifier
  mlm_activation: str = ""  # of the masked-LM head; "": the body's
  token_transform: str = "none"  # of the heads for tags and answers
  # The family of a config.json whose tensors have other names; None: this one.
  variant: Callable[[Mapping], "Family | None"] = lambda config: None
  # A decoder whose states get labels starts with the source's last token, not with a token of its
  # own (mBART).
  starts_with_last: bool = False
  # kind -> which tokens are global there (train/tasks/states.py); the first by default.
  global_attention: Mapping[str, str] = dataclasses.field(default_factory=dict)
  # The fields of Head that config.json sets, for a kind, and the reverse.
  read_head: Callable[[Mapping, str], dict] = lambda config, kind: {}
  write_head: Callable[[Head, str], dict] = lambda head, kind: {}

  def prefix_of(self, kind: str) -> str:
    """Returns the prefix of the body's tensors in a model for `kind`."""
    return self.prefixes.get(kind, self.prefix)

  def rows_of(self, kind: str, model: Mapping) -> dict[str, Row]:
    """Returns the rows of a model (fields of TransformerConfig) for `kind` by the paths of our
    weights."""
    chosen = (rows for setting, rows in self.rows_with.items() if model[setting])
    rows = itertools.chain(self.rows, self.heads.get(kind, ()), *chosen)
    return {row.ours: row for row in rows}

  def globals_for(self, kind: str) -> str:
    """Returns which tokens are global in a model for `kind`."""
    return self.global_attention.get(kind, "first")

  def head(self, config: Mapping, kind: str, activation: str = "gelu") -> Head:
    """Returns the head of a model for `kind` by its config.json; `activation` is the body's."""
    own = self.read_head(config, kind)
    if kind == "mlm":
      own = dict(activation=self.mlm_activation or activation, transform="dense_norm") | own
      return Head(**own | dict(pool="token"))
    if kind == "replaced":
      return Head(activation=activation, transform="dense")
    own = dict(pool="first", activation=self.pool_activation, transform="dense") | own
    if kind not in POOLED:
      own |= dict(pool="token", transform=self.token_transform)
    return Head(**own)


def question_tokens(max_len: int) -> int:
  """Returns how many tokens of a question may be global in rows of at most `max_len` tokens."""
  return min(MOST_QUESTION, max(1, max_len // 2))


def same(theirs: str, ours: str) -> tuple[Row, ...]:
  """Returns the row of an embedding table."""
  return (Row(f"{theirs}.weight", f"{ours}/embedding", "same"),)


def linear(theirs: str, ours: str, how="linear", *, body=True) -> tuple[Row, ...]:
  """Returns the rows of a matrix and its bias."""
  return (
    Row(f"{theirs}.weight", f"{ours}/kernel", how, body=body),
    Row(f"{theirs}.bias", f"{ours}/bias", "vector", body=body),
  )


def norm(theirs: str, ours: str, *, body=True) -> tuple[Row, ...]:
  """Returns the rows of a norm's scale and bias."""
  return (
    Row(f"{theirs}.weight", f"{ours}/scale", "vector", body=body),
    Row(f"{theirs}.bias", f"{ours}/bias", "vector", body=body),
  )


def reordered(tensor: np.ndarray, outer: int, inner: int) -> np.ndarray:
  """Returns a tensor whose outputs, [outer, inner, ...], are in the order [inner, outer, ...]."""
  split = tensor.reshape(outer, inner, -1, *tensor.shape[1:])
  return split.swapaxes(0, 1).reshape(tensor.shape)


def gains(theirs: str, ours: str, *, body=True) -> tuple[Row, ...]:
  """Returns the row of a norm that multiplies by 1 + w."""
  return (Row(f"{theirs}.weight", f"{ours}/scale", "gain", body=body),)


def attention(theirs: str, ours: str, names) -> tuple[Row, ...]:
  """Returns the rows of queries, keys, values and output; `names` are theirs, in this order."""
  parts = zip(names, ("query", "key", "value", "out"))
  return tuple(row for name, part in parts for row in linear(f"{theirs}.{name}", f"{ours}/{part}"))


def field(theirs: str | tuple[str, ...], ours: str, default, *conversions: Callable) -> Setting:
  """Returns a Setting, with its `to_ours` and `to_theirs` if values differ."""
  return Setting((theirs,) if isinstance(theirs, str) else theirs, ours, default, *conversions)


# Pattern of the buffers that files of older versions hold, of any family.
BUFFERS = r"(^|\.)(position_ids|token_type_ids|version|_float_tensor)$"

# Hugging Face's names of activations -> ours; of several for one, the first is written.
ACTIVATIONS = {
  "relu": "relu",
  "gelu": "gelu",
  "gelu_python": "gelu",
  "gelu_new": "gelu_tanh",
  "gelu_pytorch_tanh": "gelu_tanh",
  "gelu_fast": "gelu_tanh",
  "silu": "silu",
  "swish": "silu",
  "tanh": "tanh",
}
ACTIVATION_NAMES = {ours: name for name, ours in reversed(ACTIVATIONS.items())}


def changed(settings, defaults: Mapping[str, Any], without=()) -> tuple[Setting, ...]:
  """Returns the settings with other defaults by the names of theirs, and without some."""
  return tuple(
    setting._replace(default=defaults.get(setting.theirs[0], setting.default))
    for setting in settings
    if setting.theirs[0] not in without
  )


def renamed(copies: Mapping[str, str], old: str, new: str) -> dict[str, str]:
  """Returns the copies of tensors and their originals with `new` for the first `old` in a name."""
  return {name.replace(old, new, 1): of.replace(old, new, 1) for name, of in copies.items()}


def activation(theirs: str, default: str) -> Setting:
  """Returns the Setting of the feed-forward layers' activation."""
  convert = ACTIVATIONS.__getitem__, ACTIVATION_NAMES.__getitem__
  return field(theirs, "activation", default, *convert)


# Fields of any config.json that describe how a model was trained, is stored, or is displayed.
# fmt: off
GENERIC = (
  "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "_num_labels", "adapters",
  "architectures", "auto_map", "bad_words_ids", "begin_suppress_tokens", "bos_token_id",
  "chunk_size_feed_forward", "cls_token_id", "decoder_start_token_id", "diversity_penalty",
  "do_sample", "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id",
  "eos_token_ids", "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id",
  "forced_eos_token_id", "gradient_checkpointing", "id2label", "is_encoder_decoder", "label2id",
  "language", "length_penalty", "mask_token_id", "max_length", "min_length", "model_type",
  "n_special", "name", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_labels",
  "num_return_sequences", "output_attentions", "output_hidden_states", "output_past",
  "output_scores", "pad_token_id", "prefix", "problem_type", "remove_invalid_values",
  "repetition_penalty", "return_dict", "return_dict_in_generate",
  "sbert_ce_default_activation_function", "sentence_transformers", "sep_token_id",
  "suppress_tokens", "task_specific_params", "temperature", "tf_legacy_loss", "tokenizer_class",
  "top_k", "top_p", "torch_dtype", "torchscript", "transformers.js_config",
  "transformers_version", "typical_p", "unk_token_id", "use_bfloat16", "use_cache",
  "use_return_dict", "xla_device",
)
# fmt: on

# Fields of any family -> the value that has no effect; any other value has no counterpart.
NEUTRAL = dict(
  add_cross_attention=False,
  cross_attention_hidden_size=None,
  is_decoder=False,
  pruned_heads={},
  tie_encoder_decoder=False,
)
