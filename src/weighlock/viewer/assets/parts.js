// @ts-check
/** Pieces that several views share. */

import { el, fill, link } from "./dom.js";
import { isAbort } from "./api.js";
import * as say from "./format.js";

/** Address of a view. @param {string} path @param {Record<string, any>} [params] */
export function address(path, params = {}) {
  const pairs = Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false);
  return `#/${path}${pairs.length ? `?${new URLSearchParams(pairs.map(([name, value]) => [name, String(value)]))}` : ""}`;
}

/** Shown only when waiting takes a while. @param {string} [text] */
export const loading = (text = "Reading…") => el("p", { class: "loading", role: "status" }, text);

/** An error in its place, with what to do next. @param {any} error @param {(() => void)|null} [again] */
export function problem(error, again) {
  return el("div", { class: "problem", role: "alert" },
    el("p", { class: "what" }, error?.message || String(error)),
    error?.next && el("p", { class: "next" }, error.next),
    again && el("button", { type: "button", onclick: again }, "Try again"));
}

/**
 * A place that is filled when its data comes; errors are shown there.
 * @template T @param {HTMLElement} place @param {(signal: AbortSignal) => Promise<T>} ask @param {(data: T) => any} show
 * @param {AbortSignal} signal @param {string} [text] shown meanwhile
 */
export async function later(place, ask, show, signal, text) {
  fill(place, loading(text));
  place.setAttribute("aria-busy", "true");
  try {
    const data = await ask(signal);
    if (!signal.aborted) fill(place, show(data));
  } catch (error) {
    if (!isAbort(error) && !signal.aborted) { console.info(String(error)); fill(place, problem(error, () => later(place, ask, show, signal, text))); }
  } finally { place.removeAttribute("aria-busy"); }
}

/** A link to a tensor by its name. @param {number} file @param {{index: number, key: string}} tensor @param {number} [limit] */
export const tensorLink = (file, { index, key }, limit = 200) => el("a", { class: "key", href: address(`file/${file}/tensor/${index}`), title: key && key.length > limit ? say.clip(key, 1000) : null }, say.name(key, limit));

/** A heading with what follows it. @param {string} title @param {...any} children */
export const section = (title, ...children) => el("section", {}, el("h2", {}, title), ...children);

/** @param {any} gap */
export const gapText = (gap) => (typeof gap === "string" ? gap : [gap.rule, gap.where, gap.message || gap.title || JSON.stringify(gap), gap.remedy].filter(Boolean).join(" · "));

/** What was not looked at. @param {any[]} gaps */
export const gapList = (gaps) => gaps?.length > 0 && el("div", { class: "note warn" }, el("p", {}, el("strong", {}, "Not fully examined. ")), el("ul", {}, gaps.map((gap) => el("li", {}, gapText(gap)))));

/** Which tensor this is the same as. @param {any} alias */
export function aliasOf(alias) {
  if (alias === null || alias === undefined) return null;
  return typeof alias === "object" ? { index: alias.index, key: alias.key } : typeof alias === "number" ? { index: alias, key: `tensor ${alias}` } : { index: null, key: String(alias) };
}

/** @param {number} file @param {any} alias */
export function aliasLink(file, alias) {
  const other = aliasOf(alias);
  if (!other) return null;
  return el("span", { class: "alias" }, "= ", other.index === null ? say.name(other.key, 200) : tensorLink(file, /** @type {any} */ (other)));
}

export { link };
