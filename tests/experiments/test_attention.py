"""Pictures of attention: the weights are the forward pass's own, and the page stands alone."""

import base64
import html.parser
import json
import operator
import re
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.analysis import attention, pictures
from model import kernels, patterns
from model.attention import Attention
from train import inference
from train.build import build_model
from train.common.errors import UserError
from train.data import tokenizer_training
from train.step import make_predict_step
from train.tasks import causal, embedding, translation

SMALL = dict(dim=16, num_heads=4, mlp_dim=16, dropout=0.0)
BOTH = SMALL | dict(encoder_layers=2, decoder_layers=2)
LOOK = attention.look
WORDS = "a b c d e f g h"
LONG = "a b c a d e f g b h a c b"
HOSTILE = (
  "</script ><!--<script>document.title='x'</script> \"q\" 'r' & $x_1$ \u05e9\u05dc\u05d5 <b>"
)
KINDS = ["encoder self-attention", "decoder self-attention", "cross-attention"]
SETTINGS = {
  "plain": {},
  "window": dict(window=3),
  "window with global tokens": dict(window=2, global_tokens=1),
  "scanned": dict(scan_layers=True, remat="full"),
  "grouped": dict(num_kv_heads=2, positions="rotary", norm_position="pre"),
  "one group, wide heads": dict(num_kv_heads=1, head_dim=6, positions="none"),
  "xla": dict(attention_impl="xla"),
  "scale": dict(attention_scale=1.0, bias=False),
  "shared": dict(share_layers=True),
}


@pytest.fixture(scope="module")
def tokens():
  return tokenizer_training.train_tokenizer(dict(name="word", special=()), [WORDS])


def run_of(task, settings):
  model = build_model(settings, task, seed=0, platform="tpu")
  graph, state = nnx.split(model)
  params = nnx.to_pure_dict(state)
  # tables larger than Glorot's, so that attention is far from even
  params = jax.tree.map(lambda x: x * 2 if x.ndim > 1 else x, params)
  return inference.Run(None, task, graph, params, None, [])


def translator(tokens, settings, **changes):
  made = dict(data={}, tokenizer=tokens, source_len=16, target_len=16, pack=False)
  made["decoding"] = dict(beam=2, max_len_extra=4)
  return run_of(translation.Translation(**made | changes), settings)


def encoder(tokens, settings, **changes):
  task = embedding.Embedding(**dict(data={}, tokenizer=tokens, source_len=16) | changes)
  return run_of(task, dict(encoder_layers=2, decoder_layers=0) | settings)


def decoder(tokens, settings, **changes):
  made = dict(data={}, tokenizer=tokens, target_len=16, decoding=dict(beam=1, max_len_extra=5))
  task = causal.Causal(**made | changes)
  return run_of(task, dict(encoder_layers=0, decoder_layers=2) | settings)


def calls(run, source, inputs):
  """Of a forward pass, by kind: attention's own weights, queries, keys, values and result."""

  def look(module, q_BTHK, k_BSGK, v_BSGK, pattern):
    found = attention.weights(module, q_BTHK, k_BSGK, v_BSGK, pattern)
    made = module.out(pattern(q_BTHK, k_BSGK, v_BSGK))
    out = module.out.kernel[...], module.out.bias and module.out.bias[...]
    return out, found, q_BTHK, k_BSGK, v_BSGK, made

  seen = np.asarray(source)
  places = np.broadcast_to(np.arange(seen.shape[1]), seen.shape)
  batch = dict(source=seen, source_segments=(seen > 0).astype(np.int32), source_positions=places)

  @jax.jit
  def compute(params):
    model = nnx.merge(run.graph, params)
    return attention.forward(model, batch, np.asarray(inputs), look=look)

  found = jax.device_get(compute(run.params))
  return {kind: found[kind] for kind in KINDS}


def visible(kind, T, S, source, settings):
  """[T, S]: who may look at whom, said once more."""
  causal_ = kind == "decoder self-attention"
  window = None if kind == "cross-attention" else settings.get("window")
  first = settings.get("global_tokens", 0)
  seen = np.zeros((T, S), bool)
  for t in range(T):
    for s in range(S):
      near = window is None or abs(t - s) < window or min(t, s) < first
      there = causal_ or source[s] > 0
      seen[t, s] = near and there and not (causal_ and s > t)
  return seen


@pytest.mark.parametrize("name", SETTINGS)
def test_weights_are_those_that_mix_the_values(tokens, name):
  """Once more in numpy, from queries, keys and a mask; and what comes out of the layer is they
  times the values. What is masked is 0 exactly."""
  settings = BOTH | SETTINGS[name]
  run = translator(tokens, settings)
  source = [[4, 5, 6, 7, 8, 9, 10, 11, 4, 3], [7, 4, 5, 9, 3, 0, 0, 0, 0, 0]]
  inputs = [[1, 9, 8, 7, 6, 5, 4, 9, 8], [1, 4, 5, 4, 5, 4, 5, 4, 5]]
  found = calls(run, source, inputs)
  for kind, every in found.items():
    assert len(every) == 2
    for (kernel, bias), weights, q_BTHK, k_BSGK, v_BSGK, made in every:
      B, T, H, K = q_BTHK.shape
      S = k_BSGK.shape[1]
      assert weights.shape == (B, H, T, S)
      for b in range(B):
        here = visible(kind, T, S, source[b], settings)
        looks = source[b] if kind == "encoder self-attention" else [1] * T
        values = np.zeros((T, H, K))
        for t in (t for t in range(T) if looks[t]):
          for h in range(H):
            group = h // (H // k_BSGK.shape[2])
            scale = settings.get("attention_scale", K**-0.5)
            logits = np.where(here[t], k_BSGK[b, :, group] @ q_BTHK[b, t, h] * scale, -np.inf)
            wanted = np.exp(logits - logits.max())
            wanted /= wanted.sum()
            np.testing.assert_allclose(weights[b, h, t], wanted, atol=2e-5)
            assert (weights[b, h, t][~here[t]] == 0).all()
            assert weights[b, h, t].sum() == pytest.approx(1, abs=1e-5)
            values[t, h] = weights[b, h, t] @ v_BSGK[b, :, group]
          out = np.tensordot(values[t], kernel, 2) + (0 if bias is None else bias)
          np.testing.assert_allclose(made[b, t], out, atol=2e-4)
    spread = every[0][1][0, 0, -1]
    assert spread.std() > 0.05  # else a mean would pass too


def test_looking_changes_nothing(tokens, monkeypatch):
  """The program of the forward and backward pass is to the letter what it is without the hook, and
  what comes out while somebody looks is what comes out else."""
  run = translator(tokens, BOTH | dict(scan_layers=True, remat="full"))
  source = np.asarray([[4, 5, 6, 3]], np.int32)

  def loss(params, source):
    model = nnx.merge(run.graph, params)
    memory = model.encode(source)
    return model.decode(source, memory, (source > 0).astype(jnp.int32)).sum()

  def program():
    return jax.jit(jax.grad(loss)).lower(run.params, source).as_text()

  def attend(self, q_BTHK, k_BSGK, v_BSGK, pattern, key=None):
    return self.out(pattern(q_BTHK, k_BSGK, v_BSGK, key))

  with_hook = program()
  attention.look(run, "a b", "c d")
  assert program() == with_hook
  before = jax.jit(loss)(run.params, source)
  seen = []
  with attention.attention.observe(lambda *given: seen.append(given)):
    assert jax.jit(lambda *given: loss(*given))(run.params, source) == before  # traced anew
  assert len(seen) == 3  # scanned: each is traced once
  monkeypatch.setattr(Attention, "attend", attend)
  assert program() == with_hook
  monkeypatch.setattr(Attention, "attend", lambda *given, key=None: attend(*given) * 2)
  assert program() != with_hook


def test_layers_under_scan_are_told_apart(tokens):
  """Stacked weights give the picture that the same weights give layer by layer."""
  scanned, apart = (translator(tokens, BOTH | dict(scan_layers=how)) for how in (True, False))
  apart.params.update(scanned.params)
  for stack in ("encoder", "decoder"):
    blocks = [jax.tree.map(operator.itemgetter(i), scanned.params[stack]["blocks"]) for i in (0, 1)]
    apart.params[stack] = scanned.params[stack] | dict(blocks=dict(enumerate(blocks)))
  for one, other in zip(attention.look(scanned, LONG, "a b"), attention.look(apart, LONG, "a b")):
    np.testing.assert_allclose(one.weights, other.weights, atol=1e-6)
    assert abs(one.weights[0] - one.weights[1]).max() > 0.1


@pytest.mark.parametrize(
  "own",
  [
    dict(window=2, global_tokens=2, global_projections=True),
    dict(window=2, global_blocks=3),
    dict(window=2, positions="disentangled"),
    dict(relative_per_layer=True, positions="relative"),
  ],
)
def test_weights_with_a_layers_own_parts_mix_the_values_of_tokens(tokens, own):
  """The weights times the values are the attention, where blocks have values of 0 and the global
  tokens those of the others."""
  run = translator(tokens, BOTH | own)
  seen = []

  def look(module, q_BTHK, k_BSGK, v_BSGK, pattern):
    found = attention.weights(module, q_BTHK, k_BSGK, v_BSGK, pattern)
    if isinstance(pattern, patterns.OwnPattern):
      pattern = pattern.with_values(v_BSGK)
      seen.append(1)
    made = pattern(q_BTHK, k_BSGK, v_BSGK)
    return made, jnp.einsum("BHTS,BSHK->BTHK", found, v_BSGK), found

  batch = dict(source=np.asarray([[4, 5, 6, 7, 8, 9, 10, 11, 4, 3]], np.int32))
  batch |= dict(source_segments=np.ones((1, 10), np.int32), source_positions=np.arange(10)[None])
  inputs = np.asarray([[1, 9, 8, 7, 6, 5, 4, 9, 8]])
  for every in attention.forward(
    nnx.merge(run.graph, run.params), batch, inputs, look=look
  ).values():
    for made, mixed, found in every:
      np.testing.assert_allclose(made, mixed, atol=2e-5)
      assert (found.sum(-1) < 1 + 1e-5).all()
      assert found.std() > 0.05
  assert len(seen) >= 2


def program_of(run, length):
  """Of looking at a decoder alone."""

  def compute(params):
    model = nnx.merge(run.graph, params)
    return attention.forward(model, {}, np.ones((1, length), np.int32))

  return str(jax.make_jaxpr(compute)(run.params))


def test_a_kernel_that_never_writes_weights_down_says_them_too(tokens, monkeypatch):
  """TPU's, in Pallas's interpreter, on a row of whole tiles."""
  monkeypatch.setattr(kernels, "INTERPRET", True)
  settings = dict(num_heads=2, head_dim=64, decoder_layers=1, positions="rotary", window=5)
  text = " ".join((LONG.split() * 20)[:127])
  kinds = {}
  for impl in ("splash", "einsum"):
    run = decoder(tokens, SMALL | settings | dict(attention_impl=impl), target_len=256)
    (kinds[impl],) = attention.look(run, text, "")
    assert ("pallas_call" in program_of(run, 128)) == (impl == "splash")
  np.testing.assert_allclose(kinds["splash"].weights, kinds["einsum"].weights, atol=1e-4)


def test_a_head_made_by_hand_looks_at_the_same_word(tokens):
  """Words are one-hot, queries ten times keys: each word looks at its like, in equal parts."""
  settings = dict(dim=16, num_heads=1, mlp_dim=4, encoder_layers=1, positions="none")
  run = encoder(tokens, settings | dict(norm_position="pre", bias=False, dropout=0.0))
  params = jax.tree.map(np.asarray, run.params)
  params["embedding"]["embedding"] = np.eye(len(params["embedding"]["embedding"]), 16)
  block = params["encoder"]["blocks"][0]["self_attention"]
  block["query"]["kernel"] = 10 * np.eye(16)[:, None]
  block["key"]["kernel"] = np.eye(16)[:, None]
  run = inference.Run(None, run.task, run.graph, params, None, [])
  (kind,) = attention.look(run, "a b a c")
  assert kind.rows == kind.columns == ["<bos>", "a", "b", "a", "c", "<eos>"]
  likes = [[word == other for other in kind.rows] for word in kind.rows]
  wanted = np.asarray(likes) / np.sum(likes, axis=1, keepdims=True)
  np.testing.assert_allclose(kind.weights[0, 0], wanted, atol=1e-4)


def test_a_translator_shows_what_it_reads_and_says(tokens):
  kinds = {kind.name: kind for kind in attention.look(translator(tokens, BOTH), "a b c", "d e")}
  reads, said = kinds["decoder self-attention"], kinds["cross-attention"]
  assert reads.rows == reads.columns == ["<bos>", "d", "e"]
  assert said.rows == ["d", "e", "<eos>"]
  assert said.columns == kinds["encoder self-attention"].rows == ["a", "b", "c", "<eos>"]
  for kind in kinds.values():
    assert kind.weights.shape == (2, 4, len(kind.rows), len(kind.columns))
    np.testing.assert_allclose(kind.weights.sum(-1), 1, atol=1e-5)
  assert (np.triu(reads.weights, 1) == 0).all()


def test_without_a_target_it_is_the_models_own_output(tokens):
  """The words are those that predicting gives, and naming them as target shows the same."""
  run = translator(tokens, BOTH)
  own = attention.look(run, "a b c d")[2]
  batch = attention._request(run.task, "a b c d")
  step = make_predict_step(run.task, run.graph)
  found = jax.device_get(step(run.params, batch, run.task.settings()))
  assert own.rows == tokens.render_tokens(found["tokens"][0, 0, : found["lengths"][0, 0]])
  told = attention.look(run, "a b c d", " ".join(own.rows[:-1]))[2]
  assert own.rows == told.rows
  np.testing.assert_allclose(own.weights, told.weights, atol=1e-6)


def test_a_decoder_alone_goes_on(tokens):
  run = decoder(tokens, SMALL)
  (kind,) = attention.look(run, "a b", " c d")
  assert kind.rows == ["<bos>", "a", "b", "c", "d"]
  assert (np.triu(kind.weights, 1) == 0).all()
  (own,) = attention.look(run, "a b")
  assert own.rows[:3] == ["<bos>", "a", "b"]
  assert len(own.rows) > 3
  np.testing.assert_allclose(own.weights[:, :, :3, :3], kind.weights[:, :, :3, :3], atol=1e-6)


def test_a_prefix_is_seen_whole(tokens):
  (kind,) = attention.look(decoder(tokens, SMALL, prefix=True), "a b c", " d e")
  ahead = np.triu(kind.weights, 1)
  assert (ahead[..., :4, :4].max((0, 1)) > 0)[np.triu_indices(4, 1)].all()
  assert (ahead[..., :, 4:] == 0).all()


@pytest.mark.parametrize(
  "name, text, kinds",
  [
    ("bert_mlm", "no mask here", 1),
    ("bert_qa", "who?\tthe cat", 1),
    ("gpt2", "a small cat", 1),
    ("mbart", "a small cat", 3),
    ("t5", "a small cat", 3),
  ],
)
def test_of_hugging_faces_models(name, text, kinds):
  found = attention.look(inference.load_run(f"hf:tests/fixtures/{name}", "latest"), text)
  assert len(found) == kinds
  for kind in found:
    assert kind.weights.shape[2:] == (len(kind.rows), len(kind.columns))
    np.testing.assert_allclose(kind.weights.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(
  "make, text, target, wanted",
  [
    (translator, " ", None, "there is no text.* 1 to 16"),
    (translator, "a " * 16, None, "17 tokens.* 1 to 16"),
    (translator, "a", "b " * 20, "--target.* 21 tokens.* 1 to 20"),
    (encoder, "a " * 15, None, "17 tokens.* 1 to 16"),
    (encoder, "a", "b", "--target.*no decoder"),
    (decoder, "a " * 16, None, "17 tokens.* 1 to 16"),
    (decoder, "", None, "there is no text.* 1 to 16"),
    (decoder, "a", " b" * 40, "--target|reads 1 to 16"),
  ],
)
def test_what_cannot_be_read_is_told(tokens, make, text, target, wanted):
  with pytest.raises(UserError, match=wanted):
    attention.look(make(tokens, BOTH if make is translator else SMALL), text, target)


def test_too_many_weights_for_a_page(tokens, monkeypatch):
  monkeypatch.setattr(attention, "MOST", 100)
  with pytest.raises(UserError, match=r"at most \d+% of that length"):
    attention.look(encoder(tokens, SMALL), "a b c")


@pytest.mark.parametrize(
  "flag, wanted",
  [("--layer=3", "layers 1 to 2"), ("--layer=0", "1 to 2"), ("--head=9", "heads 1 to")],
)
def test_a_layer_or_head_that_is_not_there(flag, wanted, tmp_path):
  with pytest.raises(UserError, match=wanted):
    attention.main(["--workdir=hf:tests/fixtures/bert", "a", flag, f"--out={tmp_path}"])


def test_an_lstm_has_no_heads(tokens, monkeypatch, tmp_path):
  task = translation.Translation(data={}, tokenizer=tokens, source_len=16, target_len=16)
  settings = dict(name="lstm", dim=16, encoder_layers=1, decoder_layers=1)
  monkeypatch.setattr(inference, "load_run", lambda *_, **__: run_of(task, settings))
  with pytest.raises(UserError, match=r"here: .*this is an LSTM"):
    attention.main(["--workdir=here", "a", f"--out={tmp_path}"])


class Elements(html.parser.HTMLParser):
  """What a browser finds in a page: names of elements, addresses, JSON, controls without names."""

  def __init__(self, page):
    super().__init__()
    self.tags, self.addresses, self.data, self.inside, self.unnamed = [], [], "", False, []
    self.labels = 0
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.tags.append(tag)
    self.addresses += [attrs[key] for key in ("src", "href", "srcset", "action") if key in attrs]
    self.inside = attrs.get("type") == "application/json"
    self.labels += tag == "label"
    if tag in ("select", "input") and not self.labels:
      self.unnamed.append(tag)

  def handle_endtag(self, tag):
    self.labels -= tag == "label"
    self.inside = False

  def handle_data(self, data):
    self.data += data if self.inside else ""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
  """The kinds of attention in a hostile sentence; attention.png and attention.html are beside."""
  folder, kinds = tmp_path_factory.mktemp("hostile") / "new", []

  def look(*given):
    kinds.extend(LOOK(*given))
    return kinds

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(attention, "look", look)
    attention.main(["--workdir=hf:tests/fixtures/marian", HOSTILE, f"--out={folder}"])
  return folder, kinds


def test_a_page_stands_alone_and_holds_the_weights(hostile):
  folder, kinds = hostile
  page = (folder / "attention.html").read_text(encoding="utf-8")
  found = Elements(page)
  template = Elements(pictures.TEMPLATE.read_text(encoding="utf-8"))
  assert found.tags == template.tags  # nothing of the sentence became an element
  assert found.addresses == ["data:,"]
  assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttp", page)
  assert not found.unnamed
  assert "<" not in found.data  # browsers end a script at less than Python does
  data = json.loads(found.data)
  assert data["text"] == HOSTILE
  assert [kind["name"] for kind in data["kinds"]] == [kind.name for kind in kinds]
  for written, kind in zip(data["kinds"], kinds):
    numbers = np.frombuffer(base64.b64decode(written["weights"]), "<u2").reshape(written["shape"])
    np.testing.assert_allclose(numbers / 65535, kind.weights, atol=1e-5)
    assert (written["rows"], written["columns"]) == (kind.rows, kind.columns)


def test_a_picture_is_drawn(hostile, tmp_path):
  """Also of one layer with one head, and of a single word."""
  from matplotlib import image

  height, width = image.imread(hostile[0] / "attention.png").shape[:2]
  assert 400 < height < 5000
  assert 400 < width < 3000
  weights = np.ones((1, 1, 1, 1))
  kind = pictures.Kind("encoder self-attention", "", ["$a^$"], ["\t"], weights)
  pictures.draw(pictures.Picture("run", "a", [kind], 1, 1), tmp_path / "small.png")
  assert image.imread(tmp_path / "small.png").std() > 0


def test_a_folder_that_cannot_be_made(tmp_path):
  (tmp_path / "file").write_text("")
  picture = pictures.Picture("run", "a", [], 1, 1)
  with pytest.raises(UserError, match="--out"):
    pictures.write(picture, tmp_path / "file")


def test_pieces_are_shown_as_cut():
  texts = ["jumping jumping jumping over r\u00e9sum\u00e9s\n"]
  made = tokenizer_training.train_tokenizer(dict(name="bpe", vocab_size=270), texts)
  (ids,) = made.encode_batch(["jumping \u4f60\n"])
  shown = made.render_tokens([1, *ids, 2, 999])
  assert (shown[0], shown[-2], shown[-1]) == ("<bos>", "<eos>", "#999")
  assert shown[1].startswith("\u2581")
  assert "\u21b5" in "".join(shown)
  assert "".join(shown[1:-2]).startswith("\u2581jumping")
  characters = tokenizer_training.train_tokenizer(dict(name="char"), ["a b"])
  assert characters.render_tokens(characters.encode_batch(["a b"])[0]) == ["a", "\u2581", "b"]


def dumped(page, folder):
  """Returns the text of the element <pre> of a page in a browser."""
  browser = [
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--user-data-dir={folder / 'profile'}",
    "--virtual-time-budget=5000",
    "--dump-dom",
    page.as_uri(),
  ]
  done = subprocess.run(browser, capture_output=True, text=True, timeout=120, check=True)
  text = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)[1]
  assert text, done.stderr
  return text


def posted(page, script, width, folder):
  """Returns the message that the page, with the script at its end, posts in a frame of a width."""
  inner, outer = folder / "inner.html", folder / "outer.html"
  inner.write_text(page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
  outer.write_text(
    "<pre></pre><script>onmessage = e => {"
    "document.querySelector('pre').textContent = JSON.stringify(e.data)}</script>"
    f"<iframe src='{inner.as_uri()}' style='width:{width}px;height:900px;border:0'></iframe>",
    encoding="utf-8",
  )
  return json.loads(html.unescape(dumped(outer, folder)))


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [360, 1280])
def test_a_browser_shows_it(hostile, tmp_path, width):
  """Headless: nothing fails, all controls work, nothing is wider than the window."""
  page = (hostile[0] / "attention.html").read_text(encoding="utf-8")
  script = """
    const told = [];
    const click = one => { one.dispatchEvent(new Event("change")); };
    for (const kind of ["0", "1", "2"]) for (const head of ["0", "-1"]) {
      $("kind").value = kind; click($("kind"));
      $("head").value = head; click($("head"));
      document.querySelector("#rows .token").click();
      told.push($("status").textContent);
      for (const view of ["matrix", "lines"]) {
        const radio = document.querySelector(`[value=${view}]`);
        radio.checked = true; click(radio);
        const ink = $(view === "matrix" ? "matrix" : "wires");
        const pixels = ink.getContext("2d").getImageData(0, 0, ink.width, ink.height).data;
        told.push(pixels.some(x => x > 0));
      }
    }
    const unnamed = [...document.querySelectorAll("button, select, input, canvas[role]")]
      .filter(e => !(e.getAttribute("aria-label") || e.textContent || e.labels?.length));
    parent.postMessage({ told, unnamed: unnamed.length, title: document.title,
      width: document.documentElement.scrollWidth, window: innerWidth,
      tokens: [...document.querySelectorAll("#rows .token")].map(e => e.textContent) }, "*");
  """
  found = posted(page, script, width, tmp_path)
  assert found["window"] == width
  assert found["width"] <= width
  assert found["title"] == f"Attention: {HOSTILE}"
  assert found["unnamed"] == 0
  assert found["told"][1::3] == found["told"][2::3] == [True] * 6
  assert all("attends to" in line for line in found["told"][0::3])
  assert found["tokens"][-1] == "</s>"


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium: apt-get install chromium")
@pytest.mark.parametrize("heads, more", [(4, False), (32, True)])
def test_a_phone_is_shown_that_there_are_more_heads(tmp_path, heads, more):
  tokens = ["a", "b", "</s>"]
  kind = pictures.Kind("self-attention", "", tokens, tokens, np.ones((2, heads, 3, 3)) / 3)
  page = pictures.page(pictures.Picture("run", "a b", [kind], 1, 1))
  script = """
    const box = $("overview").parentElement, hint = box.nextElementSibling;
    const last = [...document.querySelectorAll(".thumb")].pop();
    const before = last.getBoundingClientRect().right;
    box.scrollLeft = 9999;
    parent.postMessage({ hint: hint.offsetHeight > 0 && hint.textContent.includes("more heads"),
      width: document.documentElement.scrollWidth, before,
      after: last.getBoundingClientRect().right }, "*");
  """
  seen = posted(page, script, 390, tmp_path)
  assert seen["width"] <= 390
  assert seen["hint"] == more == (seen["before"] > 390)
  assert seen["after"] <= 390
