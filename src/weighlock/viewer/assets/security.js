// @ts-check
/** What loading the file would run, and what was not looked at. */

import { get } from "./api.js";
import { el, facts } from "./dom.js";
import * as say from "./format.js";
import { gapList, later } from "./parts.js";
import { imports } from "./overview.js";

const ORDER = ["critical", "high", "medium", "low", "info"];

/** @param {import("./parts.js").View} view */
export function securityView({ file, signal }) {
    const place = el("div", {});
    later(place, (stop) => get(`file/${file}/scan`, {}, stop), show, signal, "Scanning…");
    return el("div", { class: "page" }, el("h1", {}, "Security"), place);
}

/** @param {string} judgement @param {any[]} findings @param {any[]} gaps @returns {[string, string, string]} */
function verdict(judgement, findings, gaps) {
    const counts = ORDER.map((severity) => [severity, findings.filter((f) => f.severity === severity).length])
        .filter(([, n]) => n)
        .map(([severity, n]) => `${n} ${severity}`)
        .join(", ");
    if (findings.length)
        return [
            "bad",
            say.plural(findings.length, "finding"),
            counts + (gaps.length ? "; and not everything could be examined" : ""),
        ];
    if (gaps.length || /incomplete|not.fully/.test(judgement))
        return [
            "warn",
            "Not fully examined",
            "Nothing was found in what could be read. That is no clean bill: what was not read may hold anything.",
        ];
    return [
        "good",
        "Clean",
        "Everything in the file was read, and loading it runs nothing but the known parts of a checkpoint.",
    ];
}

/** @param {any} data */
function show({ judgement = "", findings = [], gaps = [], globals = null }) {
    const [kind, title, text] = verdict(String(judgement), findings, gaps);
    const sorted = [...findings].sort((a, b) => ORDER.indexOf(a.severity) - ORDER.indexOf(b.severity));
    return [
        el("div", { class: `verdict ${kind}` }, el("strong", {}, title), el("p", {}, text)),
        gapList(gaps),
        sorted.length > 0 && el("ol", { class: "findings" }, sorted.slice(0, 300).map(finding)),
        sorted.length > 300 &&
            el(
                "p",
                { class: "of" },
                `and ${say.count(sorted.length - 300)} more: weighlock scan FILE lists all of them.`,
            ),
        globals && imports(globals),
    ];
}

/** @param {any} f */
const finding = (f) =>
    el(
        "li",
        { class: `finding ${f.severity}` },
        el(
            "h2",
            {},
            el("span", { class: "severity" }, f.severity),
            " ",
            el("span", { class: "rule" }, f.rule),
            " ",
            say.clip(f.title || "", 200),
        ),
        el("p", { class: "message" }, say.clip(f.message || "", 1000)),
        facts(
            [
                ["Where", f.where && el("span", { class: "key" }, say.clip(f.where, 400))],
                ["Why it matters", f.explanation],
                ["What to do", f.remedy],
            ],
            "facts prose",
        ),
    );
