"""Writes the files of sentence-transformers beside a model, and computes their modules by numpy."""

import json
import math

import numpy as np
from safetensors.numpy import save_file

TEXTS = ("The lazy fox jumps. ", "Is it the 3rd?", "  he", "A good WORD of the wise, in a crowd!")
FLAGS = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "lasttoken": "lasttoken"}
ACTIVATIONS = dict(
  Tanh=np.tanh,
  Identity=lambda x: x,
  ReLU=lambda x: np.maximum(x, 0),
  GELU=lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
)


def write(folder, mode, *, dim=8, dense=(), normalize=True, flags=False, **transformer):
  """Writes the modules; `dense` has (outputs, bias, activation) of each layer. flags: as version 2
  writes the pooling. Returns the layers' weights."""
  rng, names = np.random.default_rng(0), ["Transformer", "Pooling"]
  names += ["Dense"] * len(dense) + ["Normalize"] * normalize
  modules, weights, size = [], [], dim
  for number, name in enumerate(names):
    path = f"{number}_{name}" if number else ""
    kind = f"sentence_transformers.models.{name}"
    modules.append(dict(idx=number, name=str(number), path=path, type=kind))
    if number:
      (folder / path).mkdir(exist_ok=True)
    if name == "Pooling":
      content = dict(word_embedding_dimension=dim, pooling_mode=mode, include_prompt=True)
      if flags:
        del content["pooling_mode"]
        content |= {f"pooling_mode_{flag}": key == mode for key, flag in FLAGS.items()}
      (folder / path / "config.json").write_text(json.dumps(content))
    if name == "Dense":
      outputs, bias, activation = dense[len(weights)]
      kind = f"torch.nn.modules.activation.{activation}"
      content = dict(in_features=size, out_features=outputs, bias=bias, activation_function=kind)
      (folder / path / "config.json").write_text(json.dumps(content))
      tensors = {"linear.weight": rng.normal(size=(outputs, size)).astype(np.float32)}
      if bias:
        tensors["linear.bias"] = rng.normal(size=outputs).astype(np.float32)
      save_file(tensors, folder / path / "model.safetensors")
      weights.append((tensors["linear.weight"], tensors.get("linear.bias", 0), activation))
      size = outputs
  (folder / "modules.json").write_text(json.dumps(modules))
  (folder / "sentence_bert_config.json").write_text(json.dumps(transformer))
  prompts = dict(prompts=dict(query="query: ", document=""), default_prompt_name=None)
  (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
  return weights


def vector(states, mode, weights, normalize):
  """Returns a text's vector from the states [T, D] of its tokens."""
  pools = dict(cls=states[0], mean=states.mean(0), max=states.max(0), lasttoken=states[-1])
  x = pools[mode]
  for kernel, bias, activation in weights:
    x = ACTIVATIONS[activation](kernel @ x + bias)
  return x / np.linalg.norm(x) if normalize else x
