// @ts-check
/** What stands at a place that is no tensor. */

import { get } from "./api.js";
import { el } from "./dom.js";
import * as say from "./format.js";
import { later } from "./parts.js";

/** @param {import("./parts.js").View} view */
export function valueView({ file, params, signal }) {
    const path = params.path || "[]"; // a link that was cut: the whole
    const place = el("div", { class: "tensor" });
    later(
        place,
        (stop) => get(`file/${file}/value`, { path }, stop),
        (data) =>
            el(
                "article",
                {},
                el(
                    "h1",
                    { class: "key", tabindex: "-1" },
                    (data.path || []).length ? say.clip(data.path.join("."), 600) : "(the whole)",
                ),
                el("p", { class: "lead" }, data.type || data.kind),
                el("pre", { class: "value", tabindex: "0" }, say.clip(data.text, 20_000)),
            ),
        signal,
    );
    return place;
}
