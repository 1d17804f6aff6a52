"""Computes a Transformer's logits in float64 with plain numpy, one row and one head at a time.

It is written from the papers' formulas and shares no code with model/.
"""

import math

import numpy as np
from flax import nnx

from train.common.trees import flatten

ACTIVATIONS = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}


class Reference:
  """A model's weights in float64, and its passes over a single row of ids without padding."""

  def __init__(self, model, is_global=lambda place: True):
    self.cfg, self.is_global = model.cfg, is_global
    weights = flatten(nnx.to_pure_dict(nnx.state(model)))
    self.weights = {path: np.asarray(x, np.float64) for path, x in weights.items()}

  def encode(self, ids):
    """Returns the encoder's states [S, D]."""
    table = self.weights.get("source_embedding/embedding", self.weights["embedding/embedding"])
    return self._stack("encoder", table[ids], None)

  def decode(self, ids, memory=None):
    """Returns the logits [T, V]."""
    x = self._stack("decoder", self.weights["embedding/embedding"][ids], memory)
    if (transform := self.cfg.output_transform) != "none":
      x = ACTIVATIONS[transform](self._linear("output_transform/dense", x))
      x = self._norm("output_transform/norm", x)
    logits = x @ self.weights["embedding/embedding"].T * self.cfg.logits_scale
    cap = self.cfg.logits_softcap
    return logits if cap is None else cap * np.tanh(logits / cap)

  def _stack(self, side, x, memory):
    cfg, decoder = self.cfg, side == "decoder"
    depth = cfg.decoder_layers if decoder else cfg.encoder_layers
    x = x * math.sqrt(cfg.dim)
    if cfg.positions.startswith("learned"):
      x = x + self.weights[f"{side}/embeddings/positions/embedding"][: len(x)]
    if cfg.positions == "sinusoidal":
      x = x + waves(range(len(x)), [10000 ** (-2 * i / cfg.dim) for i in range(cfg.dim // 2)])
    if cfg.positions == "sinusoidal_t2t":
      places = range(cfg.position_offset, cfg.position_offset + len(x))
      half = cfg.dim // 2
      x = x + waves(places, [10000 ** (-i / (half - 1)) for i in range(half)])
    for layer in range(depth):
      name = f"{side}/blocks/{0 if cfg.share_layers else layer}"
      before, x = x, self._block(name, layer, x, memory, decoder)
      if layer == 0 and cfg.convolution and not decoder:
        x = self._convolved(before, x)
    return x if cfg.norm_position == "post" else self._norm(f"{side}/norm", x)

  def _block(self, name, layer, x, memory, decoder):
    cfg = self.cfg

    def attend(h):
      return self._attention(f"{name}/self_attention", h, h, layer, decoder)

    def cross(h):
      return self._attention(f"{name}/cross_attention", h, memory, None, decoder)

    def mlp(h):
      h = ACTIVATIONS[cfg.activation](self._linear(f"{name}/mlp/up", h))
      return self._linear(f"{name}/mlp/down", h)

    def sublayer(x, function, part, normed=True):
      if cfg.norm_position == "post":
        return self._norm(f"{name}/{part}_norm", x + function(x))
      y = function(self._norm(f"{name}/{part}_norm", x) if normed else x)
      return x + (y if cfg.norm_position == "pre" else self._norm(f"{name}/{part}_output_norm", y))

    after = sublayer(x, attend, "self", cfg.first_norm or layer > 0)
    if cfg.parallel:
      return after + sublayer(x, mlp, "mlp") - x
    if memory is not None:
      after = sublayer(after, cross, "cross")
    return sublayer(after, mlp, "mlp")

  def _attention(self, name, x, memory, layer, decoder):
    """Computes self-attention of the layer's number, or cross-attention, whose layer is None."""
    cfg = self.cfg
    q, k, v = self._projected(name, x, memory, "")
    if cfg.qk_norm:
      q, k = self._norm(f"{name}/query_norm", q), self._norm(f"{name}/key_norm", k)
    K = q.shape[2]
    if cfg.positions == "rotary" and layer is not None:
      theta, scale = at(cfg.rope_theta, layer), at(cfg.rope_scale, layer)
      q, k = (turn(part, theta, scale, cfg.rotary_dim or K, cfg) for part in (q, k))
    y = np.zeros(q.shape)
    for h in range(q.shape[1]):
      g = h // (q.shape[1] // k.shape[1])
      for t in range(len(x)):
        values, logits = v[:, g], np.full(len(memory), -np.inf)
        for s in range(len(memory)):
          if layer is None or self._sees(t, s, layer, decoder):
            logits[s] = self._logit(name, q, k, t, s, h, g, layer)
        if cfg.global_blocks and layer is not None and not decoder:
          others, block_values = self._blocks(name, memory, q[t, h], t, h, g)
          logits, values = np.append(logits, others), np.append(values, block_values, 0)
        y[t, h] = softmax(logits) @ values
    if cfg.global_projections and layer is not None and not decoder:
      q, k, v = self._projected(name, x, memory, "_global")
      for t in filter(self.is_global, range(cfg.global_tokens)):
        for h in range(q.shape[1]):
          g = h // (q.shape[1] // k.shape[1])
          logits = [q[t, h] @ k[s, g] / math.sqrt(K) for s in range(len(x))]
          y[t, h] = softmax(np.array(logits)) @ v[:, g]
    return np.einsum("thk,hkd->td", y, self.weights[f"{name}/out/kernel"]) + self._bias(
      f"{name}/out"
    )

  def _projected(self, name, x, memory, which):
    query = self._linear(f"{name}/query{which}", x)
    return query, *(self._linear(f"{name}/{part}{which}", memory) for part in ("key", "value"))

  def _blocks(self, name, x, query, t, h, g):
    """Returns a token's logits for the blocks of its row, and the blocks' values."""
    size = self.cfg.global_blocks
    count = len(x) // size
    edges = [size * i for i in range(count)] + [len(x)]
    logits, values = [], []
    for block in range(count):
      state = self._norm(f"{name}/block_norm", x[edges[block] : edges[block + 1]].sum(0))
      key, value = (self._linear(f"{name}/{part}", state)[g] for part in ("key", "value"))
      distance = block - min(t // size, count - 1)
      logits.append(query @ key / math.sqrt(len(query)))
      logits[-1] += self._distance_bias("encoder/block_relative", distance, True, h)
      values.append(value)
    return logits, np.array(values).reshape(count, -1)

  def _convolved(self, embedded, x):
    """Returns the states of the first layer with relu of a convolution of the embeddings."""
    width, name = self.cfg.convolution, "encoder/convolution"
    kernel = self.weights[f"{name}/dense/kernel"].reshape(width, x.shape[1], x.shape[1])
    added = np.zeros_like(x) + self._bias(f"{name}/dense")
    for t in range(len(x)):
      for place in range(width):
        if 0 <= (s := t + place - width // 2) < len(x):
          added[t] += embedded[s] @ kernel[place]
    return self._norm(f"{name}/norm", x + np.maximum(added, 0))

  def _distance_bias(self, name, distance, both_ways, h):
    table = self.weights[f"{name}/embedding"]
    return table[bucket(distance, both_ways, len(table), self.cfg.relative_max_distance), h]

  def _disentangled(self, name, q, k, t, s, h, g):
    """Returns the logit of a query and a key by content and distance (He et al. 2021, eq. 4)."""
    stack = name.split("/")[0]
    table = self.weights[f"{stack}/distance_states/embedding"]
    if self.cfg.disentangled_norm:
      table = self._norm(f"{stack}/distance_states/norm", table)
    if self.cfg.relative_max_distance is None:
      half = len(table) // 2
      place = min(max(t - s + half, 0), len(table) - 1)
    else:
      place = log_bucket(t - s, len(table) // 2, self.cfg.relative_max_distance)
    own, terms = "position_" * self.cfg.disentangled_projections, self.cfg.disentangled_terms
    products = [q[t, h] @ k[s, g]]
    if "c2p" in terms:
      products.append(q[t, h] @ self._linear(f"{name}/{own}key", table[place])[g])
    if "p2c" in terms:
      products.append(k[s, g] @ self._linear(f"{name}/{own}query", table[place])[h])
    return sum(products) / math.sqrt(len(products) * q.shape[2])

  def _logit(self, name, q, k, t, s, h, g, layer):
    cfg = self.cfg
    if cfg.positions.endswith("disentangled") and layer is not None:
      return self._disentangled(name, q, k, t, s, h, g)
    logit = q[t, h] @ k[s, g] / math.sqrt(q.shape[2])
    if (cap := cfg.attention_softcap) is not None:
      logit = cap * math.tanh(logit / cap)
    if layer is not None and cfg.positions in ("relative", "learned_relative"):
      stack = name.split("/")[0]
      table = f"{name if cfg.relative_per_layer else stack}/relative"
      logit += self._distance_bias(table, s - t, stack == "encoder", h)
    return logit

  def _sees(self, t, s, layer, decoder):
    cfg = self.cfg
    if decoder and s > t:
      return False
    window = cfg.decoder_window if decoder and cfg.decoder_window is not None else cfg.window
    window = at(window, layer)
    near = window is None or abs(t - s) < window
    return near or any(x < cfg.global_tokens and self.is_global(x) for x in (t, s))

  def _linear(self, name, x):
    return np.tensordot(x, self.weights[f"{name}/kernel"], 1) + self._bias(name)

  def _bias(self, name):
    return self.weights.get(f"{name}/bias", 0.0)

  def _norm(self, name, x):
    if self.cfg.norm == "layer":
      x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + self.cfg.norm_eps)
    return x * self.weights[f"{name}/scale"] + self._bias(name)


def at(pattern, layer):
  return pattern[layer % len(pattern)] if isinstance(pattern, tuple) else pattern


def waves(places, frequencies):
  angle = np.outer(list(places), frequencies)
  return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)


def turn(x, theta, scale, dim, cfg):
  """Turns pairs of the first `dim` numbers of each head as complex numbers."""
  half, length = dim // 2, cfg.rope_original_len
  scales = np.full(half, scale)
  for i in range(half if length else 0):
    wavelength = 2 * math.pi * theta ** (i / half)
    low, high = length / cfg.rope_low_turns, length / cfg.rope_high_turns
    if wavelength < high:
      scales[i] = 1
    elif wavelength <= low:
      part = (length / wavelength - cfg.rope_low_turns) / (cfg.rope_high_turns - cfg.rope_low_turns)
      scales[i] = 1 / ((1 - part) / scale + part)
  angle = np.arange(len(x))[:, None] / scales * theta ** (-np.arange(half) / half)
  turned = (x[..., :half] + 1j * x[..., half:dim]) * np.exp(1j * angle)[:, None]
  return np.concatenate([turned.real, turned.imag, x[..., dim:]], axis=-1)


def softmax(logits):
  share = np.exp(logits - logits.max())
  return share / share.sum()


def log_bucket(distance, half, most):
  """Returns DeBERTa-v2's row of a distance (query minus key) in a table of 2 * half rows."""
  middle = half // 2
  place = distance
  if abs(distance) > middle:
    wide = math.log(abs(distance) / middle) / math.log((most - 1) / middle) * (middle - 1)
    place = int(math.copysign(math.ceil(wide - 1e-9) + middle, distance))
  return min(max(place + half, 0), 2 * half - 1)


def bucket(distance, both_ways, count, most):
  """Returns T5's bucket of a distance (Raffel et al. 2020, section 2.1)."""
  first = 0
  if both_ways:
    count //= 2
    first = count if distance > 0 else 0
    distance = abs(distance)
  else:
    distance = max(-distance, 0)
  near = count // 2
  if distance < near:
    return first + distance
  wide = int(math.log(distance / near) / math.log(most / near) * (count - near))
  return first + min(near + wide, count - 1)
