"""Opens tiny models of Hugging Face's families (tests/fixtures) and computes their outputs."""

import json
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.helpers import FIXTURES
from train.common.trees import path_name
from train.interop import directory
from train.interop.families.base import POOLED, Head
from train.tasks.states import label_states

CHOICES = 2  # of a text, in the fixtures
TRAINED = FIXTURES / "trained"  # runs that answer nearly all inputs right
TYPES = json.loads((FIXTURES / "config_types.json").read_text())
NAMES = sorted(path.parent.name for path in FIXTURES.glob("*/config.json"))

SIZES = dict(vocab_size=20, dim=8, num_heads=2, mlp_dim=12, max_len=16)
T5 = dict(norm="rms", norm_position="pre", bias=False, positions="relative")
LLAMA = dict(encoder_layers=0, norm="rms", norm_position="pre", positions="rotary", bias=False,
             gated=True, activation="silu")  # fmt: skip
GEMMA2 = dict(LLAMA, norm_position="both", activation="gelu_tanh", attention_scale=0.5,
              window=(4, None), logits_softcap=3)  # fmt: skip
GLOBAL = dict(positions="learned", embedding_norm=True, window=3, global_tokens=1,
              global_projections=True)  # fmt: skip
SHAPES = {  # model_type -> settings that differ from SIZES, and the kind
  "electra": (dict(decoder_layers=0, positions="learned", embedding_norm=True, norm_eps=0), "mlm"),
  "bert": (dict(decoder_layers=0, positions="learned", embedding_norm=True, token_types=2), "qa"),
  "esm": (dict(decoder_layers=0, positions="rotary", norm_position="pre", activation="gelu"),
          "tagging"),
  "xlm-roberta": (dict(decoder_layers=0, positions="learned", position_offset=2, token_types=1,
                       embedding_norm=True), "mlm"),
  "albert": (dict(decoder_layers=0, positions="learned", embedding_norm=True, share_layers=True,
                  embedding_dim=4), "tagging"),
  "mpnet": (dict(decoder_layers=0, positions="learned_relative", position_offset=2,
                 embedding_norm=True), "classification"),
  "modernbert": (dict(decoder_layers=0, positions="rotary", norm_position="pre", first_norm=False,
                      gated=True, bias=False, norm_bias=False, embedding_norm=True,
                      window=(None, 3), rope_theta=(9, 8.0)), "mlm"),
  "deberta-v2": (dict(decoder_layers=0, positions="disentangled", embedding_norm=True,
                      convolution=3), "tagging"),
  "pegasus": (dict(norm_position="pre"), "translation"),
  "marian": (dict(dropout=0), "translation"),
  "t5": (T5, "translation"),
  "gpt2": (dict(encoder_layers=0, positions="learned", norm_position="pre"), "causal"),
  "starcoder2": (dict(encoder_layers=0, positions="rotary", norm_position="pre", window=4),
                 "causal"),
  "llama": (LLAMA | dict(init_std=3), "causal"),
  "umt5": (T5 | dict(relative_per_layer=True), "translation"),
  "longt5": (T5 | dict(window=3, decoder_window=(None,), global_blocks=2), "translation"),
  "longformer": (GLOBAL | dict(decoder_layers=0, position_offset=2, token_types=1), "mlm"),
  "led": (GLOBAL | dict(decoder_window=(None,), embed_scale=False), "translation"),
  "bart": (dict(positions="learned", position_offset=2, embedding_norm=True), "translation"),
  "mbart": (dict(positions="learned", position_offset=2, embedding_norm=True, norm_position="pre"),
            "translation"),
  "m2m_100": (dict(positions="sinusoidal_t2t", position_offset=2, norm_position="pre"),
              "translation"),
  "mistral": (LLAMA | dict(window=4), "causal"),
  "qwen2": (LLAMA | dict(qkv_bias=True, window=(None, 4)), "causal"),
  "qwen3": (LLAMA | dict(qk_norm=True, rope_scale=2), "causal"),
  "gemma": (LLAMA | dict(activation="gelu_tanh", rope_theta=9), "causal"),
  "gemma2": (GEMMA2 | dict(attention_softcap=2), "causal"),
  "gemma3_text": (GEMMA2 | dict(qk_norm=True, rope_theta=(9, 8.0)), "causal"),
  "opt": (dict(encoder_layers=0, positions="learned", position_offset=2, norm_position="pre"),
          "causal"),
  "gpt_neox": (dict(encoder_layers=0, positions="rotary", norm_position="pre", parallel=True,
                    rotary_dim=2, rope_theta=9), "causal"),
  "t5gemma": (GEMMA2 | dict(encoder_layers=2, decoder_layers=3, share_embeddings=False,
                            attention_softcap=2, window=(5, None), decoder_window=(4, None)),
              "translation"),
}  # fmt: skip


def problems(config):
  """Returns the fields of a config.json whose values transformers' strict dataclass refuses."""
  wrong = []
  for name, value in config.items():
    kind, least, most = (*TYPES[config["model_type"]].get(name, ["object"]), None, None)[:3]
    if kind == "object":
      continue
    names = re.findall(r"bool|int|float|str|list|dict|None", re.sub(r"\[.*?\]", "", kind))
    names += ["str"] * kind.startswith("Literal")
    inside = least is None or least <= value <= most
    if type(value).__name__.replace("NoneType", "None") not in names or not inside:
      wrong.append(f"{name}={value!r}: {kind}")
  return wrong


def head_of(kind, activation="gelu"):
  """Returns the head that our task has by default, of a model with an activation."""
  if kind == "classification":
    return Head("first", "tanh", "dense")
  return Head("token", activation, "dense_norm" if kind == "mlm" else "none")


def open_fixture(name):
  return directory.Directory(FIXTURES / name)


def build(source):
  """Builds the model of a directory with its weights."""
  graph, state = nnx.split(nnx.eval_shape(source.build))
  params = jax.tree_util.tree_map_with_path(
    lambda path, _: jnp.asarray(np.asarray(source.params[path_name(path)])), nnx.to_pure_dict(state)
  )
  return nnx.merge(graph, params)


def global_mask(source, batch):
  """Returns the tokens that are global as a task has it, or as the batch has it."""
  which, ids = source.family.global_attention.get(source.kind, "first"), batch["input_ids"]
  if "global_attention_mask" in batch or which == "first":
    return batch.get("global_attention_mask")
  if which == "none":
    return np.zeros_like(ids)
  return (np.cumsum(ids == source.config["sep_token_id"], 1) == 0).astype(np.int32)


def label_outputs(source, model, ids, mask, which=None):
  """Returns the outputs of a head on the states of a decoder behind an encoder."""
  roles = SimpleNamespace(start=source.config["decoder_start_token_id"])
  if source.family.starts_with_last:
    roles = SimpleNamespace(start=ids[np.arange(len(ids)), mask.sum(1) - 1][:, None])
  positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
  batch = dict(source=ids, source_segments=mask, source_positions=positions)
  states, seen = label_states(model, batch, roles, global_mask=which), mask
  if source.kind == "classification":  # behind the last eos is a language, or padding
    eos = ids == source.config["eos_token_id"]
    seen = mask * (np.cumsum(eos[:, ::-1], 1)[:, ::-1] > 0)
  labels = model.head(states, seen)
  if source.kind == "qa":
    return dict(start_logits=labels[..., 0], end_logits=labels[..., 1])
  return dict(logits=labels[:, 0])


def outputs(source, batch):
  """Returns what a directory's model computes from a batch, by Hugging Face's names."""
  model, ids, mask = build(source), batch["input_ids"], batch["attention_mask"]
  if source.kind == "causal":
    return dict(logits=model.logits(model.decode(ids, segments=mask)))
  if source.kind == "translation":
    inputs = batch["decoder_input_ids"]
    memory = model.encode(ids, mask, global_mask=batch.get("global_attention_mask"))
    return dict(logits=model.logits(model.decode(inputs, memory, mask, np.ones_like(inputs))))
  if not source.model["encoder_layers"]:
    labels = model.head(model.decode(ids, segments=mask), mask)
    if source.kind == "qa":
      return dict(start_logits=labels[..., 0], end_logits=labels[..., 1])
    return dict(logits=labels[:, 0] if source.kind == "classification" else labels)
  if source.model["decoder_layers"]:
    return label_outputs(source, model, ids, mask, batch.get("global_attention_mask"))
  which = global_mask(source, batch)
  hidden = model.encode(ids, mask, types=batch.get("token_type_ids"), global_mask=which)
  if source.kind == "mlm":
    return dict(logits=model.logits(model.head(hidden)))
  if source.kind == "body":
    states = dict(last_hidden_state=hidden)
    if source.pooler:
      kernel, bias = (np.asarray(source.params[f"head/dense/{x}"]) for x in ("kernel", "bias"))
      states["pooler_output"] = jnp.tanh(hidden[:, 0] @ kernel + bias)
    return states
  labels = model.head(hidden, mask)
  if source.kind == "choice":
    return dict(logits=labels[:, 0, 0].reshape(-1, CHOICES))
  if source.kind == "replaced":
    return dict(logits=labels[..., 0])
  if source.kind == "qa":
    return dict(start_logits=labels[..., 0], end_logits=labels[..., 1])
  return dict(logits=labels[:, 0] if source.kind in POOLED else labels)


def add_tokens(content):
  """Adds a special and another token to a tokenizer.json."""
  vocab = content["model"]["vocab"]
  ids = [*vocab.values()] if isinstance(vocab, dict) else [len(vocab) - 1]
  first = max(*ids, *(token["id"] for token in content["added_tokens"])) + 1
  usual = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
  for number, (name, special) in enumerate((("[E1]", True), ("[e2]", False))):
    content["added_tokens"].append(dict(id=first + number, content=name, special=special) | usual)
  return content
