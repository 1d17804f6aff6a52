"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const ROW = 24;
const SHADES = [[255, 255, 255], [188, 214, 246], [90, 155, 230], [31, 95, 174], [10, 42, 87]];
const state = { kind: data.kinds.length - 1, layer: data.layer - 1, head: data.head - 1,
  view: "lines", held: null, over: null };

for (const kind of data.kinds) {
  const bytes = Uint8Array.from(atob(kind.weights), c => c.charCodeAt(0));
  const view = new DataView(bytes.buffer), [L, H, T, S] = kind.shape;
  kind.values = new Float32Array(L * H * T * S).map((_, i) => view.getUint16(2 * i, true) / 65535);
}
const kindNow = () => data.kinds[state.kind];
const layerNow = () => Math.min(state.layer, kindNow().shape[0] - 1);
const colour = (h, H) => `hsl(${Math.round(360 * h / H + 212) % 360} 70% ${h % 2 ? 34 : 46}%)`;

// a function of row and column: one head's weights
function weightsOf(kind, layer, head) {
  const [, H, T, S] = kind.shape, start = (layer * H + head) * T * S;
  return (t, s) => kind.values[start + t * S + s];
}
// the chosen head's; of all heads, -1, their mean
function chosen() {
  const kind = kindNow(), H = kind.shape[1];
  if (state.head >= 0) return weightsOf(kind, layerNow(), state.head);
  const every = Array.from({ length: H }, (_, h) => weightsOf(kind, layerNow(), h));
  return (t, s) => every.reduce((sum, weights) => sum + weights(t, s), 0) / H;
}
function shade(x) {
  const at = Math.min(Math.max(x, 0), 1) * (SHADES.length - 1);
  const low = Math.min(Math.floor(at), SHADES.length - 2);
  return SHADES[low].map((c, i) => Math.round(c + (at - low) * (SHADES[low + 1][i] - c)));
}
const percent = x => x > 0 && x < 0.0005 ? "<0.1%" : (100 * x).toFixed(x < 0.0995 ? 1 : 0) + "%";

function make(tag, attributes = {}, text = "") {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
}
function options(select, names, now) {
  select.replaceChildren(...names.map(([value, name]) => make("option", { value }, name)));
  select.value = now;
}
const number = count => Array.from({ length: count }, (_, i) => [i, `${i + 1} of ${count}`]);

// which token is shown: hovered, else held by a tap
const shown = () => state.over || state.held;

function refill() {
  const kind = kindNow(), [L, H, T, S] = kind.shape;
  state.held = state.over = null;
  options($("layer"), number(L), layerNow());
  options($("head"), [...number(H), ...(H > 1 ? [[-1, "all, in colours"]] : [])], state.head);
  $("note").textContent = kind.caption;
  for (const side of ["rows", "columns"]) {
    $(side).replaceChildren(...kind[side].map((token, i) => {
      const how = { type: "button", class: "token", dir: "auto", title: token };
      const button = make("button", how, token);
      const me = { side, i };
      button.onmouseenter = () => { state.over = me; draw(); };
      button.onmouseleave = () => { state.over = null; draw(); };
      button.onclick = () => {
        state.over = null;
        state.held = state.held && state.held.side === side && state.held.i === i ? null : me;
        draw();
      };
      const item = make("li");
      item.append(button);
      return item;
    }));
  }
  const heading = make("tr");
  const names = number(H).map(([h]) => make("th", { scope: "col" }, h + 1));
  heading.append(make("th", {}, "layer"), ...names);
  const lines = number(L).map(([l]) => {
    const line = make("tr");
    line.append(make("th", { scope: "row" }, l + 1));
    for (let h = 0; h < H; h++) {
      const label = `layer ${l + 1}, head ${h + 1}`;
      const button = make("button", { type: "button", class: "thumb", "aria-label": label });
      button.dataset.at = `${l} ${h}`;
      button.onclick = () => {
        $("layer").value = state.layer = l;
        $("head").value = state.head = h;
        draw();
      };
      const canvas = make("canvas", { width: S, height: T }), image = new ImageData(S, T);
      const weights = weightsOf(kind, l, h);
      for (let i = 0; i < T * S; i++) {
        image.data.set([...shade(weights(Math.floor(i / S), i % S)), 255], 4 * i);
      }
      canvas.getContext("2d").putImageData(image, 0, 0);
      button.append(canvas);
      const cell = make("td");
      cell.append(button);
      line.append(cell);
    }
    return line;
  });
  const caption = make("caption", { class: "head" }, "all layers and heads");
  $("overview").replaceChildren(caption, heading, ...lines);
  const most = innerWidth > 760 ? 420 : 9999;
  const room = Math.min(document.documentElement.clientWidth - 32, most) - 44;
  const thumb = Math.max(18, Math.min(52, Math.floor(room / H) - 6));
  $("overview").style.setProperty("--thumb", `${thumb}px`);
  $("overview").classList.toggle("few", Math.max(T, S) <= thumb);
  draw();
}

function scaled(canvas, width, height) {
  const ratio = Math.min(devicePixelRatio || 1, 16000 / Math.max(width, height));
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  return pen;
}

function drawLines() {
  const kind = kindNow(), [, H, T, S] = kind.shape, at = shown(), canvas = $("wires");
  const width = canvas.parentElement.clientWidth, pen = scaled(canvas, width, ROW * Math.max(T, S));
  const heads = state.head >= 0 ? [state.head] : number(H).map(([h]) => h);
  heads.forEach((h, place) => {
    const weights = weightsOf(kind, layerNow(), h);
    const shift = (place - (heads.length - 1) / 2) * Math.min(2, 16 / heads.length);
    pen.strokeStyle = heads.length > 1 ? colour(h, H) : "#1f5fae";
    pen.lineWidth = heads.length > 1 ? 1.6 : 2.5;
    for (let t = 0; t < T; t++) for (let s = 0; s < S; s++) {
      if (at && at.i !== (at.side === "rows" ? t : s)) continue;
      const weight = weights(t, s);
      if (weight < 0.01) continue;
      pen.globalAlpha = weight;
      pen.beginPath();
      pen.moveTo(2, ROW * (t + 0.5) + shift);
      pen.lineTo(width - 2, ROW * (s + 0.5) + shift);
      pen.stroke();
    }
  });
  const weights = chosen();
  for (const side of ["rows", "columns"]) {
    $(side).querySelectorAll(".token").forEach((button, i) => {
      const is = place => Boolean(place) && place.side === side && place.i === i;
      let weight = 0;
      if (at && at.side !== side) weight = side === "columns" ? weights(at.i, i) : weights(i, at.i);
      button.classList.toggle("on", is(at));
      button.setAttribute("aria-pressed", is(state.held));
      button.style.backgroundColor = weight ? `rgba(31, 95, 174, ${0.55 * weight})` : "";
    });
  }
  const label = `lines between tokens, darker for greater weights: ${chosenName()}`;
  canvas.setAttribute("aria-label", label);
}

let frame = null; // where the matrix lies in its canvas
function drawMatrix() {
  const kind = kindNow(), [, , T, S] = kind.shape, at = shown(), weights = chosen();
  const canvas = $("matrix");
  const room = $("sheet").parentElement.clientWidth, pen = canvas.getContext("2d");
  const font = size => `${size}px ${getComputedStyle(document.body).fontFamily}`;
  const longest = words => {
    pen.font = font(13);
    return Math.max(...words.map(word => pen.measureText(word).width));
  };
  const left = Math.ceil(Math.min(longest(kind.rows), room < 500 ? 90 : 150)) + 10;
  const top = Math.ceil(Math.min(longest(kind.columns), 130)) + 10;
  const cell = Math.max(13, Math.min(30, Math.floor((room - left - 2) / S)));
  const size = Math.min(13, cell - 1);
  frame = { left, top, cell };
  canvas.style.width = `${left + S * cell + 2}px`;
  const ink = scaled(canvas, left + S * cell + 2, top + T * cell + 2);
  const cut = (word, most) => {
    if (ink.measureText(word).width <= most) return word;
    let letters = [...word];
    while (letters.length && ink.measureText(letters.join("") + "…").width > most) letters.pop();
    return letters.join("") + "…";
  };
  ink.font = font(size);
  ink.textBaseline = "middle";
  for (let t = 0; t < T; t++) for (let s = 0; s < S; s++) {
    ink.fillStyle = `rgb(${shade(weights(t, s))})`;
    ink.fillRect(left + s * cell, top + t * cell, cell, cell);
  }
  ink.strokeStyle = "#e3e2de";
  ink.lineWidth = 0.5;
  ink.beginPath();
  for (let t = 0; t <= T; t++) ink.rect(left, top + t * cell, S * cell, 0);
  for (let s = 0; s <= S; s++) ink.rect(left + s * cell, top, 0, T * cell);
  ink.stroke();
  ink.strokeStyle = "#eb6834";
  ink.lineWidth = 2;
  if (at && at.side === "rows") ink.strokeRect(left, top + at.i * cell, S * cell, cell);
  if (at && (at.side === "columns" || at.column !== undefined)) {
    const s = at.side === "columns" ? at.i : at.column;
    ink.strokeRect(left + s * cell, top, cell, T * cell);
  }
  ink.fillStyle = "#1d1d1f";
  ink.textAlign = "right";
  kind.rows.forEach((word, t) => {
    ink.fillText(cut(word, left - 10), left - 6, top + (t + 0.5) * cell);
  });
  ink.textAlign = "left";
  kind.columns.forEach((word, s) => {
    ink.save();
    ink.translate(left + (s + 0.5) * cell, top - 6);
    ink.rotate(-Math.PI / 2);
    ink.fillText(cut(word, top - 10), 0, 0);
    ink.restore();
  });
  const label = "matrix of weights, rows attend to columns; arrow keys choose a row";
  canvas.setAttribute("aria-label", `${label}: ${chosenName()}`);
}

function chosenName() {
  const all = state.view === "lines" ? "all heads" : "mean of all heads";
  const head = state.head >= 0 ? `head ${state.head + 1}` : all;
  return `${kindNow().name}, layer ${layerNow() + 1}, ${head}`;
}

function describe() {
  const kind = kindNow(), at = shown(), status = $("status"), weights = chosen();
  if (!at) {
    status.replaceChildren(`${chosenName()}. Point at a token or tap it.`);
    return;
  }
  const mine = at.side === "rows", others = mine ? kind.columns : kind.rows;
  const word = text => { const node = make("bdi"); node.append(make("b", {}, text)); return node; };
  const every = others.map((text, i) => [text, mine ? weights(at.i, i) : weights(i, at.i)]);
  const parts = [word(kind[at.side][at.i]), mine ? " attends to " : " is attended to by "];
  if (state.head < 0) parts.push("(mean of all heads) ");
  if (at.column !== undefined) {
    const weight = percent(weights(at.i, at.column));
    parts.push(word(kind.columns[at.column]), ` ${weight}; in all to `);
  }
  const best = every.sort((a, b) => b[1] - a[1]).slice(0, 5);
  best.filter(([, weight]) => weight >= 0.005).forEach(([text, weight], i) => {
    parts.push(i ? ", " : "", word(text), ` ${percent(weight)}`);
  });
  status.replaceChildren(...parts);
}

function draw() {
  const H = kindNow().shape[1], matrix = state.view === "matrix";
  document.querySelector("main").classList.toggle("wide", matrix && kindNow().shape[3] > 28);
  $("lines").hidden = matrix;
  $("sheet").hidden = !matrix;
  $("keys").hidden = matrix || state.head >= 0;
  if (!$("keys").hidden) {
    $("keys").replaceChildren(...number(H).map(([h]) => {
      const item = make("span"), dot = make("i");
      dot.style.background = colour(h, H);
      item.append(dot, `head ${h + 1}`);
      return item;
    }));
  }
  $("overview").querySelectorAll(".thumb").forEach(button => {
    const [l, h] = button.dataset.at.split(" ").map(Number);
    button.setAttribute("aria-pressed", l === layerNow() && (h === state.head || state.head < 0));
  });
  (matrix ? drawMatrix : drawLines)();
  describe();
  for (const box of document.querySelectorAll(".scroll")) {
    box.nextElementSibling.hidden = box.hidden || box.scrollWidth <= box.clientWidth;
  }
}

function cellAt(event) {
  const box = $("matrix").getBoundingClientRect(), [, , T, S] = kindNow().shape;
  const s = Math.floor((event.clientX - box.left - frame.left) / frame.cell);
  const t = Math.floor((event.clientY - box.top - frame.top) / frame.cell);
  if (t >= 0 && t < T && s < 0) return { side: "rows", i: t };
  if (s >= 0 && s < S && t < 0) return { side: "columns", i: s };
  return t >= 0 && t < T && s >= 0 && s < S ? { side: "rows", i: t, column: s } : null;
}
$("matrix").onmousemove = event => { state.over = cellAt(event); draw(); };
$("matrix").onmouseleave = () => { state.over = null; draw(); };
$("matrix").onclick = event => { state.over = null; state.held = cellAt(event); draw(); };
$("matrix").onkeydown = event => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key], T = kindNow().shape[2];
  if (!step) return;
  event.preventDefault();
  const now = state.held && state.held.side === "rows" ? state.held.i : step > 0 ? -1 : T;
  state.over = null;
  state.held = { side: "rows", i: Math.min(Math.max(now + step, 0), T - 1) };
  draw();
};
$("kind").onchange = () => { state.kind = Number($("kind").value); refill(); };
$("layer").onchange = () => { state.layer = Number($("layer").value); draw(); };
$("head").onchange = () => { state.head = Number($("head").value); draw(); };
document.querySelectorAll("[name=view]").forEach(radio => {
  radio.onchange = () => { state.view = radio.value; state.over = null; draw(); };
});
addEventListener("resize", draw);

$("title").textContent = data.text;
$("run").textContent = data.run;
document.title = `Attention: ${data.text}`;
options($("kind"), data.kinds.map((kind, i) => [i, kind.name]), state.kind);
refill();
