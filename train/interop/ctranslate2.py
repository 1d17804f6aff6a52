"""Writes a model in CTranslate2's format, from our weights and by CTranslate2's own specifications.

Needs the package ctranslate2, and neither torch nor transformers.
"""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from model.config import TransformerConfig
from model.embeddings import SINUSOIDS
from train.common.errors import UserError
from train.data.tokenizer import Tokenizer
from train.interop.families.base import Row
from train.interop.weights_out import to_theirs

ACTIVATIONS = dict(relu="RELU", gelu="GELU", gelu_tanh="GELUTanh", silu="SWISH", tanh="Tanh")
POSITIONS = 1024  # rows of a table of positions, if no more are needed
# The values that it has, of settings that may have others.
HAS = dict(
  positions=("sinusoidal", "sinusoidal_t2t", "learned", "relative", "rotary", "alibi", "none"),
  norm_position=("pre", "post"),
  activation=tuple(ACTIVATIONS),
)
KINDS = ("body", "causal", "translation")  # CTranslate2 has no heads on an encoder's states
# The settings that are written; any other must be as it is by default. The last two lines are the
# settings that change no output, or only how it is computed.
# fmt: off
WRITTEN = (
  "vocab_size", "dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim", "encoder_layers",
  "decoder_layers", "decoder_heads", "decoder_kv_heads", "decoder_head_dim", "decoder_mlp_dim",
  "decoder_max_len", "activation", "gated", "norm", "norm_position", "norm_eps", "embedding_norm",
  "token_types", "bias", "positions", "max_len", "position_offset", "relative_buckets",
  "relative_max_distance", "rope_theta", "share_embeddings", "tie_output", "output_bias",
  "embed_scale", "logits_scale", "attention_scale",
  "init_std", "dropout", "attention_dropout", "activation_dropout",
  "attention_impl", "remat", "scan_layers", "dtype",
)
# fmt: on


def require() -> None:
  """Raises UserError if the package is not there."""
  if importlib.util.find_spec("ctranslate2") is None:
    raise UserError("--format ctranslate2 needs the package ctranslate2: pip install ctranslate2")


def check(model: Mapping, kind: str) -> None:
  """Raises UserError, which names the settings, for a model that CTranslate2 cannot serve."""
  if lacks := lacking(model, kind):
    raise UserError(f"CTranslate2 cannot serve this model, as it lacks: {', '.join(lacks)}")


def lacking(model: Mapping, kind: str) -> list[str]:
  """Returns the settings of a model (fields of TransformerConfig, and its name) that CTranslate2
  has no counterpart of."""
  model = dict(model)
  if (name := model.pop("name", "transformer")) != "transformer":
    return [f"model.name={name!r} (it has Transformers alone)"]
  lacks = []
  if kind not in KINDS:
    lacks.append(f"the head of a {kind} model (of encoders it serves the states alone)")
  cfg = TransformerConfig(**model)
  if kind == "translation" and not cfg.encoder_layers:
    lacks.append("a decoder that reads its source as a prefix (model.encoder_layers=0)")
  for field in dataclasses.fields(cfg):
    value, name = getattr(cfg, field.name), field.name
    if name not in WRITTEN:
      serves = value in (field.default, _neutral(cfg, name))
    else:
      serves = value in HAS.get(name, (value,)) and not isinstance(value, tuple)
    if not serves:
      lacks.append(f"model.{name}={value!r}")
  if cfg.positions == "alibi" and cfg.encoder_layers:
    lacks.append("model.positions='alibi' (its encoders have no ALiBi; a lone decoder has)")
  if cfg.positions == "relative" and not cfg.encoder_layers:
    # measured: it generates with other distances than it scores with (4.8.5)
    lacks.append("model.positions='relative' of a lone decoder")
  return lacks


def _neutral(cfg: TransformerConfig, field: str):
  """Returns the value of a field that says the same as its default."""
  return dict(embedding_dim=cfg.dim, mlp_bias=cfg.bias, qkv_bias=cfg.bias).get(field)


def write(
  folder: pathlib.Path,
  model: Mapping,
  params: Mapping,
  tokenizer: Tokenizer,
  longest: int,
  quantization: str | None = None,
) -> None:
  """Writes model.bin, config.json and the vocabularies into `folder`.

  `params` has path -> array, each layer under its own path. `longest` is the number of positions
  that inputs and outputs need, where positions are a table. quantization: "int8" stores layers and
  tables of words as integers, by CTranslate2's own rule.
  """
  from ctranslate2.specs import transformer_spec

  spec = _Model(TransformerConfig(**model), params, longest).spec(transformer_spec)
  roles, names = tokenizer.roles, vocabulary(tokenizer, model["vocab_size"])
  if hasattr(spec, "register_source_vocabulary"):
    spec.register_source_vocabulary(names)
    spec.register_target_vocabulary(names)
    spec.config.decoder_start_token = names[roles.start]
  else:
    spec.register_vocabulary(names)
  spec.config.layer_norm_epsilon = float(model["norm_eps"])
  spec.config.bos_token = names[(*roles.first, roles.start)[0]]
  spec.config.eos_token = names[roles.eos]
  # a name that is not in the vocabulary would be added to it
  spec.config.unk_token = names[roles.pad if roles.unk is None else roles.unk]
  spec.validate()
  spec.optimize(quantization=quantization)
  spec.save(str(folder))


def vocabulary(tokenizer: Tokenizer, size: int) -> list[str]:
  """Returns the name of each id of a model; ids without a token have names of their own."""
  inner, names = tokenizer.copy_inner(), []
  taken = set(inner.get_vocab())
  for i in range(size):
    name = inner.id_to_token(i)
    if name is None:
      name = next(name for name in (f"<unused_{i}>", f"<unused_{i}_>") if name not in taken)
    names.append(name)
  return names


class _Model:
  """A model's settings and weights, and the parts of its specification."""

  def __init__(self, cfg: TransformerConfig, params: Mapping, longest: int):
    self.cfg, self.params, self.longest = cfg, params, longest

  def spec(self, specs):
    """Returns the specification with all weights; `specs` is ctranslate2.specs.transformer_spec."""
    cfg = self.cfg
    if not cfg.decoder_layers:
      return specs.TransformerEncoderModelSpec(self._encoder(specs))
    decoder = _Model(cfg.for_decoder(), self.params, self.longest)._decoder(specs)
    if not cfg.encoder_layers:
      return specs.TransformerDecoderModelSpec(decoder)
    return specs.TransformerSpec(self._encoder(specs), decoder)

  def _encoder(self, specs):
    cfg, types = self.cfg, bool(self.cfg.token_types)
    merge = specs.common_spec.EmbeddingsMerge.ADD
    options = dict(num_source_embeddings=1 + types, embeddings_merge=merge)
    spec = specs.TransformerEncoderSpec(
      cfg.encoder_layers, cfg.num_heads, **self._options(specs), **options
    )
    own = "source_embedding/embedding"
    spec.embeddings[0].weight = self._weight(own if own in self.params else "embedding/embedding")
    if types:  # they are added before the scaling
      scale = cfg.table_dim**0.5 if cfg.embed_scale else 1.0
      spec.embeddings[1].weight = self._weight("encoder/embeddings/types/embedding") / np.float32(
        scale
      )
    self._stack(spec, "encoder")
    return spec

  def _decoder(self, specs):
    cfg = self.cfg
    options = dict(with_encoder_attention=bool(cfg.encoder_layers), alibi=cfg.positions == "alibi")
    spec = specs.TransformerDecoderSpec(
      cfg.decoder_layers, cfg.num_heads, **self._options(specs), **options
    )
    spec.embeddings.weight = self._weight("embedding/embedding")
    self._stack(spec, "decoder")
    if cfg.logits_scale != 1.0:
      spec.scale_outputs = float(cfg.logits_scale)
    output = spec.embeddings.weight if cfg.tie_output else self._matrix("output/kernel")
    spec.projection.weight = output
    if cfg.output_bias:
      spec.projection.bias = self._weight("output_bias")
    return spec

  def _options(self, specs) -> dict:
    """Returns the options that an encoder's specification shares with a decoder's."""
    cfg, activations = self.cfg, specs.common_spec.Activation
    options = dict(
      pre_norm=cfg.norm_position == "pre",
      activation=activations[ACTIVATIONS[cfg.activation]],
      layernorm_embedding=cfg.embedding_norm,
      relative_attention_bias=cfg.positions == "relative",
      ffn_glu=cfg.gated,
      rms_norm=cfg.norm == "rms",
      num_heads_kv=None if cfg.kv_heads == cfg.num_heads else cfg.kv_heads,
    )
    if cfg.head_size * cfg.num_heads != cfg.dim:
      options["head_dim"] = cfg.head_size
    if cfg.positions == "rotary":  # of 0 dimensions means of all
      options |= dict(rotary_dim=0, rotary_interleave=False, rotary_base=cfg.rope_theta)
    return options

  def _stack(self, spec, side: str) -> None:
    cfg = self.cfg
    spec.scale_embeddings = float(cfg.table_dim**0.5) if cfg.embed_scale else False
    if (table := self._positions(side)) is not None:
      spec.position_encodings.encodings = table
    if cfg.embedding_norm:
      self._norm(spec.layernorm_embedding, f"{side}/embeddings/norm")
    if spec.pre_norm:
      self._norm(spec.layer_norm, f"{side}/norm")
    for number, layer in enumerate(spec.layer):
      block = f"{side}/blocks/{number}"
      self._attention(layer.self_attention, f"{block}/self_attention", f"{block}/self_norm")
      if cfg.positions == "relative":
        layer.self_attention.relative_attention_bias = self._weight(f"{side}/relative/embedding")
        layer.self_attention.relative_attention_max_distance = np.int32(cfg.relative_max_distance)
      if hasattr(layer, "attention"):
        self._attention(layer.attention, f"{block}/cross_attention", f"{block}/cross_norm")
      self._norm(layer.ffn.layer_norm, f"{block}/mlp_norm")
      self._linear(layer.ffn.linear_0, f"{block}/mlp/{'gate' if cfg.gated else 'up'}")
      if cfg.gated:
        self._linear(layer.ffn.linear_0_noact, f"{block}/mlp/up")
      self._linear(layer.ffn.linear_1, f"{block}/mlp/down")

  def _positions(self, side: str) -> np.ndarray | None:
    """Returns the table of positions [positions, D], or None where no table is added."""
    cfg = self.cfg
    if cfg.positions == "learned":
      return self._weight(f"{side}/embeddings/positions/embedding")[cfg.position_offset :]
    if cfg.positions in SINUSOIDS:
      first = cfg.position_offset if cfg.positions == "sinusoidal_t2t" else 0
      rows = jnp.arange(first, first + self.longest)[None]
      return np.asarray(SINUSOIDS[cfg.positions](rows, cfg.table_dim))[0]
    # without a table CTranslate2 would add sinusoids of its own
    return np.zeros((self.longest, cfg.table_dim), np.float32) if cfg.positions == "none" else None

  def _attention(self, spec, path: str, norm: str) -> None:
    from ctranslate2.converters import utils
    from ctranslate2.specs import common_spec

    self._norm(spec.layer_norm, norm)
    parts = [common_spec.LinearSpec() for _ in range(3)]
    for part, name in zip(parts, ("query", "key", "value")):
      self._linear(part, f"{path}/{name}")
    first = 3 if len(spec.linear) == 2 else 1  # of self-attention all three are one matrix
    utils.fuse_linear(spec.linear[0], parts[:first])
    if parts[first:]:
      utils.fuse_linear(spec.linear[1], parts[first:])
    self._linear(spec.linear[-1], f"{path}/out")
    spec.queries_scale = float(self.cfg.scale)

  def _norm(self, spec, path: str) -> None:
    spec.gamma = self._weight(f"{path}/scale")
    if hasattr(spec, "beta"):
      spec.beta = self._weight(f"{path}/bias")

  def _linear(self, spec, path: str) -> None:
    spec.weight = self._matrix(f"{path}/kernel")
    if f"{path}/bias" in self.params:
      spec.bias = self._weight(f"{path}/bias").reshape(-1)

  def _matrix(self, path: str) -> np.ndarray:
    return to_theirs(self._weight(path), Row("", path, "linear"))

  def _weight(self, path: str) -> np.ndarray:
    return np.asarray(self.params[path], np.float32)
