// @ts-check
/** Making elements. Text goes in as text nodes only: nothing of a file is ever parsed as markup. */

/** @typedef {Node|string|number|null|undefined|false|any[]} Child */

const SVG = "http://www.w3.org/2000/svg";

/** @param {Element} node @param {Record<string, any>} props */
function assign(node, props) {
    for (const [name, value] of Object.entries(props)) {
        if (value === null || value === undefined || value === false) continue;
        if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
        else if (name === "class") node.setAttribute("class", value);
        else if (name.startsWith("--")) /** @type {HTMLElement} */ (node).style.setProperty(name, String(value));
        else if (name in node && !name.startsWith("aria") && node.namespaceURI !== SVG && typeof value !== "string")
            /** @type {any} */ (node)[name] = value;
        else node.setAttribute(name, value === true ? "" : String(value));
    }
}

/** @param {Element} parent @param {Child[]} children */
export function append(parent, ...children) {
    for (const child of children) {
        if (child === null || child === undefined || child === false) continue;
        if (Array.isArray(child)) append(parent, ...child);
        else parent.append(child instanceof Node ? child : String(child));
    }
}

/**
 * An HTML element. `on…` properties are listeners, `--…` are custom properties, the rest attributes.
 * @param {string} tag @param {Record<string, any>} [props] @param {...Child} children @returns {any}
 */
export function el(tag, props = {}, ...children) {
    const node = document.createElement(tag);
    assign(node, props);
    append(node, ...children);
    return node;
}

/** @param {Child} text @param {(event: any) => void} onclick @param {string|null} [label] also its title @param {Record<string, any>} [more] @returns {any} */
export const button = (text, onclick, label = null, more = {}) =>
    el("button", { type: "button", "aria-label": label, title: label, onclick, ...more }, text);

/** A cell of a row of a virtual list. @param {string} kind @param {...Child} children */
export const cell = (kind, ...children) => el("span", { class: `cell ${kind}`, role: "gridcell" }, ...children);

/** A whole number from 0 to `n - 1`, acted on as it is typed. @param {string} label @param {number} n @param {number} now @param {(to: number) => void} change */
export function index(label, n, now, change) {
    const box = el("input", { type: "number", min: 0, max: n - 1, "aria-label": `${label}, 0 to ${n - 1}` });
    const read = () => Math.max(0, Math.min(n - 1, Math.floor(Number(box.value) || 0)));
    box.value = String(now);
    box.addEventListener("change", () => {
        box.value = String(read());
    });
    box.addEventListener("input", () => {
        if (box.value !== "") change(read());
    });
    return box;
}

/** An SVG element. @param {string} tag @param {Record<string, any>} [props] @param {...Child} children @returns {any} */
export function svg(tag, props = {}, ...children) {
    const node = document.createElementNS(SVG, tag);
    assign(node, props);
    append(node, ...children);
    return node;
}

/** @param {Element} node @param {...Child} children */
export function fill(node, ...children) {
    node.replaceChildren();
    append(node, ...children);
}

/** Facts as a description list. @param {[Child, Child][]} pairs @param {string} [kind] */
export function facts(pairs, kind = "facts") {
    return el(
        "dl",
        { class: kind },
        pairs
            .filter(([, value]) => value !== null && value !== undefined && value !== "")
            .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
    );
}

/**
 * A plain table. @param {Child[]} head @param {Child[][]} rows
 * @param {{caption?: string, kind?: string, numeric?: number[], rowHeader?: boolean}} [options]
 */
export function table(head, rows, { caption, kind = "", numeric = [], rowHeader = true } = {}) {
    const cls = (i) => (numeric.includes(i) ? "num" : null);
    return el(
        "table",
        { class: kind },
        caption && el("caption", {}, caption),
        el(
            "thead",
            {},
            el(
                "tr",
                {},
                head.map((text, i) => el("th", { scope: "col", class: cls(i) }, text)),
            ),
        ),
        el(
            "tbody",
            {},
            rows.map((row) =>
                el(
                    "tr",
                    {},
                    row.map((cell, i) =>
                        el(
                            i === 0 && rowHeader ? "th" : "td",
                            { scope: i === 0 && rowHeader ? "row" : null, class: cls(i) },
                            cell,
                        ),
                    ),
                ),
            ),
        ),
    );
}

/** A closed box with the table twin of a chart, filled when it is opened. @param {string} label @param {() => Child} make */
export function twin(label, make) {
    const body = el("div", { class: "scroll-x", tabindex: "0", role: "group", "aria-label": label });
    const box = el("details", { class: "twin" }, el("summary", {}, label), body);
    box.addEventListener("toggle", () => {
        if (box.open && !body.firstChild) append(body, make());
    });
    return box;
}

/** A group of buttons of which one is pressed. @param {string} label @param {[string, string][]} choices value and text
 * @param {string} chosen @param {(value: string) => void} choose */
export function choice(label, choices, chosen, choose) {
    const group = el(
        "div",
        { class: "choice", role: "group", "aria-label": label },
        choices.map(([value, text]) =>
            button(
                text,
                () => {
                    for (const other of group.children)
                        other.setAttribute("aria-pressed", String(other.dataset.value === value));
                    choose(value);
                },
                null,
                { "data-value": value, "aria-pressed": String(value === chosen) },
            ),
        ),
    );
    return group;
}

/** Wait, dropping all calls but the last. @template {any[]} A @param {(...args: A) => void} action @param {number} ms */
export function debounce(action, ms) {
    /** @type {ReturnType<typeof setTimeout>|undefined} */
    let timer;
    return (/** @type {A} */ ...args) => {
        clearTimeout(timer);
        timer = setTimeout(() => action(...args), ms);
    };
}

/** @param {string} text @param {HTMLElement} button */
export async function copy(text, button) {
    let done = true;
    try {
        await navigator.clipboard.writeText(text);
    } catch {
        done = false;
    }
    say(done ? "Copied." : "The browser does not allow copying: select the text.");
    button.classList.toggle("done", done);
    setTimeout(() => button.classList.remove("done"), 1500);
}

/** Read out by screen readers, and shown for a moment. @param {string} text */
export function say(text) {
    const place = document.getElementById("said");
    if (!place) return;
    place.textContent = text;
    place.classList.add("shown");
    clearTimeout(Number(place.dataset.timer));
    place.dataset.timer = String(setTimeout(() => place.classList.remove("shown"), 2500));
}
