// @ts-check
/** What each byte of a file is there for: a bar that zooms, and a list. */

import { get, isAbort } from "./api.js";
import { el, fill } from "./dom.js";
import * as say from "./format.js";
import { loading, problem } from "./parts.js";
import { Pages, VirtualRows } from "./virtual.js";

const PAGE = 2000, MOST_DRAWN = 20_000;

/** @param {number} file @param {AbortSignal} signal */
export function layoutView(file, signal) {
  const body = el("div", { class: "fill" }, loading());
  start(file, body, signal);
  return el("div", { class: "fill" }, el("div", { class: "toolbar" }, el("h1", {}, "Layout")), body);
}

/** @param {number} file @param {HTMLElement} body @param {AbortSignal} signal */
async function start(file, body, signal) {
  /** @type {VirtualRows|null} */ let rows = null;
  /** @type {ByteBar|null} */ let bar = null;
  /** @type {any} */ let first = null;
  const failed = (error) => { if (!rows) fill(body, problem(error, () => start(file, body, signal))); };
  const pages = new Pages(async (offset, limit, stop) => { const answer = await get(`file/${file}/layout`, { offset, limit }, stop); first ||= answer; return answer; },
    () => { rows?.update(); bar?.draw(); }, failed, PAGE);
  signal.addEventListener("abort", () => { pages.stop(); rows?.stop(); bar?.stop(); });
  await pages.need(0, 1);
  if (signal.aborted || !first) return;
  const kinds = Object.keys(first.kinds || {}).sort((a, b) => Number(first.kinds[b]) - Number(first.kinds[a]));
  const colour = (kind) => { const at = kinds.indexOf(kind); return `k${at < 0 ? 5 : Math.min(at, 5)}`; };
  const size = Number(first.size) || 1;
  bar = new ByteBar(size, pages, colour, (i) => rows?.go(i));
  rows = new VirtualRows({
    label: "Parts of the file", role: "grid", kind: "layout-rows", total: () => pages.total, get: (i) => pages.get(i), need: (a, b) => { pages.need(a, b, false); },
    render: (row, i) => el("div", { class: "row", role: "row", "aria-rowindex": i + 1 },
      el("span", { class: "cell offset", role: "gridcell" }, say.count(row.offset)), el("span", { class: "cell size", role: "gridcell" }, say.count(row.nbytes)),
      el("span", { class: "cell what", role: "gridcell" }, el("span", { class: `swatch ${colour(row.kind)}`, "aria-hidden": "true" }), row.kind), el("span", { class: "cell name", role: "gridcell" }, say.clip(row.name ?? "", 300))),
    open: (row) => bar?.show(Number(row.offset), Number(row.offset) + Math.max(1, Number(row.nbytes))),
  });
  rows.element.setAttribute("aria-rowcount", String(pages.total));
  fill(body, el("div", { class: "pad" },
    bar.element,
    el("ul", { class: "keyed" }, kinds.map((kind) => el("li", {}, el("span", { class: `swatch ${colour(kind)}`, "aria-hidden": "true" }), `${kind} `, el("span", { class: "of" }, `${say.bytes(first.kinds[kind])}, ${say.percent(Number(first.kinds[kind]) / size)}`)))),
    pages.total > MOST_DRAWN && el("p", { class: "of" }, `The bar draws the first ${say.count(MOST_DRAWN)} of ${say.count(pages.total)} parts; the list has all.`)),
  el("div", { class: "list-holder" }, el("div", { class: "list-head", "aria-hidden": "true" }, ["Offset", "Bytes", "Kind", "Name"].map((text, i) => el("span", { class: `cell ${["offset", "size", "what", "name"][i]}` }, text))), rows.element));
  bar.draw();
  rows.update();
  try { for (let from = PAGE; from < Math.min(pages.total, MOST_DRAWN) && !signal.aborted; from += PAGE) await pages.need(from, from + 1, false); } catch (error) { if (!isAbort(error)) failed(error); }
}

class ByteBar {
  /** @param {number} size @param {Pages} pages @param {(kind: string) => string} colour @param {(index: number) => void} pick */
  constructor(size, pages, colour, pick) {
    this.size = size; this.pages = pages; this.colour = colour; this.pick = pick;
    this.from = 0; this.to = size;
    this.canvas = el("canvas", { class: "bytebar", tabindex: "0", role: "img", "aria-label": `The ${say.count(size)} bytes of the file; the list below has the same parts. Plus and minus zoom, arrow keys move, 0 shows all.` });
    this.readout = el("p", { class: "readout" });
    const button = (text, label, action) => el("button", { type: "button", "aria-label": label, title: label, onclick: action }, text);
    this.element = el("div", { class: "figure wide" }, el("div", { class: "figure-head" }, el("div", { class: "choice", role: "group", "aria-label": "Zoom" },
      button("+", "Zoom in", () => this.zoom(0.5)), button("−", "Zoom out", () => this.zoom(2)), button("All", "Show the whole file", () => this.show(0, this.size))), this.readout), this.canvas);
    this.#listen();
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.canvas);
  }

  #listen() {
    const { canvas } = this;
    const at = (e) => { const box = canvas.getBoundingClientRect(); return this.from + ((e.clientX - box.left) / box.width) * (this.to - this.from); };
    /** @type {{x: number, from: number, to: number, moved: boolean}|null} */ let drag = null;
    canvas.addEventListener("wheel", (e) => { e.preventDefault(); this.zoom(e.deltaY < 0 ? 0.8 : 1.25, at(e)); }, { passive: false });
    canvas.addEventListener("pointerdown", (e) => { drag = { x: e.clientX, from: this.from, to: this.to, moved: false }; canvas.setPointerCapture(e.pointerId); });
    canvas.addEventListener("pointermove", (e) => {
      if (drag && Math.abs(e.clientX - drag.x) > 3) drag.moved = true;
      if (drag?.moved) { const by = ((drag.x - e.clientX) / canvas.clientWidth) * (drag.to - drag.from); this.show(drag.from + by, drag.to + by); }
      this.#tell(at(e));
    });
    canvas.addEventListener("pointerup", (e) => { if (drag && !drag.moved) { const i = this.find(at(e)); if (i >= 0) this.pick(i); } drag = null; });
    canvas.addEventListener("pointerleave", () => this.#tell(null));
    canvas.addEventListener("keydown", (e) => {
      const span = this.to - this.from;
      const action = { "+": () => this.zoom(0.5), "=": () => this.zoom(0.5), "-": () => this.zoom(2), 0: () => this.show(0, this.size), ArrowLeft: () => this.show(this.from - span / 8, this.to - span / 8), ArrowRight: () => this.show(this.from + span / 8, this.to + span / 8) }[e.key];
      if (action) { e.preventDefault(); action(); }
    });
  }

  /** The part that holds a byte. @param {number} byte */
  find(byte) {
    let lo = 0, hi = Math.min(this.pages.total, MOST_DRAWN) - 1;
    while (lo <= hi) {
      const middle = (lo + hi) >> 1, row = this.pages.get(middle);
      if (!row || byte < Number(row.offset)) hi = middle - 1;
      else if (byte >= Number(row.offset) + Number(row.nbytes)) lo = middle + 1;
      else return middle;
    }
    return -1;
  }

  /** @param {number|null} byte */
  #tell(byte) {
    const i = byte === null ? -1 : this.find(byte), row = i < 0 ? null : this.pages.get(i);
    this.readout.textContent = row ? `${say.count(row.offset)} + ${say.count(row.nbytes)}  ${row.kind}  ${say.clip(row.name ?? "", 120)}` : `bytes ${say.count(Math.floor(this.from))} to ${say.count(Math.ceil(this.to))}`;
  }

  /** @param {number} factor @param {number} [at] */
  zoom(factor, at = (this.from + this.to) / 2) {
    const span = (this.to - this.from) * factor;
    this.show(at - (at - this.from) * factor, at - (at - this.from) * factor + span);
  }

  /** @param {number} from @param {number} to */
  show(from, to) {
    const span = Math.max(16, Math.min(this.size, to - from));
    this.from = Math.max(0, Math.min(this.size - span, from));
    this.to = Math.min(this.size, this.from + span);
    this.draw();
  }

  draw() {
    const { canvas } = this, dense = window.devicePixelRatio || 1, width = Math.round(canvas.clientWidth * dense), height = Math.round(canvas.clientHeight * dense);
    if (!width || !height) return;
    canvas.width = width; canvas.height = height;
    const pen = canvas.getContext("2d"), scale = width / (this.to - this.from);
    const colours = /** @type {Record<string, string>} */ (Object.fromEntries(["k0", "k1", "k2", "k3", "k4", "k5"].map((name) => [name, resolve(canvas, name)])));
    for (let i = 0; i < Math.min(this.pages.total, MOST_DRAWN); i++) {
      const row = this.pages.get(i);
      if (!row) continue;
      const x0 = (Number(row.offset) - this.from) * scale, x1 = x0 + Number(row.nbytes) * scale;
      if (x1 < 0 || x0 > width) continue;
      pen.fillStyle = colours[this.colour(row.kind)];
      pen.fillRect(x0, 0, Math.max(x1 - x0 - (x1 - x0 > 6 ? 1 : 0), 0.5), height);
    }
    this.#tell(null);
  }

  stop() { this.observer.disconnect(); }
}

/** A colour of the theme as canvas understands it. @param {HTMLElement} node @param {string} name */
function resolve(node, name) {
  node.style.setProperty("--probe", `var(--${name})`);
  return getComputedStyle(node).color;
}
