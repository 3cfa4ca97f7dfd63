// @ts-check
/** The frame: files, views, keys, theme. What is shown stands in the address, so that back, forward and reload work. */

import { ApiError, get, isAbort, serverLost, takeToken, watchServer } from "./api.js";
import { button, el, fill, say as announce } from "./dom.js";
import * as say from "./format.js";
import { overviewView } from "./overview.js";
import { address, loading, problem } from "./parts.js";

/** The first paint needs the overview only; the other views come when they are opened. @type {Record<string, () => Promise<any>>} */
const PARTS = {
    overview: async () => overviewView,
    diff: async () => (await import("./diff.js")).diffView,
    storages: async () => (await import("./storages.js")).storagesView,
    layout: async () => (await import("./layout.js")).layoutView,
    security: async () => (await import("./security.js")).securityView,
    tensors: async () => (await import("./browser.js")).Browser,
    tensor: async () => (await import("./tensor.js")).tensorView,
    value: async () => (await import("./value.js")).valueView,
};
const VIEWS = /** @type {[string, string][]} */ ([
    ["overview", "Overview"],
    ["tensors", "Tensors"],
    ["storages", "Storages"],
    ["layout", "Layout"],
    ["security", "Security"],
]);
const LIST_STATE = ["q", "dtype", "layout", "min_bytes", "shape", "sort", "desc", "view", "fold"];
const KEYS = [
    ["/", "search names"],
    ["f", "filter"],
    ["d", "diff of two files"],
    ["o, t, s, l, c", "overview, tensors, storages, layout, security"],
    ["↑ ↓ Home End", "move in a list"],
    ["→ ←", "open and close a branch"],
    ["*", "open all branches of a level"],
    ["Enter", "show the tensor"],
    ["Esc", "close; back to the list"],
    ["+ − 0, arrows", "zoom and move a heat map or the byte bar"],
    ["Page Up, Page Down", "other rows of values; with Shift other columns"],
    ["?", "this help"],
];
const PING_EVERY = 60_000,
    THEME = "weighlock-theme";

/** @type {any[]} */ let files = [];
/** @type {import("./browser.js").Browser|null} */ let browser = null;
let routing = new AbortController();
const main = el("main", { id: "main", tabindex: "-1" });
const nav = el("nav", { "aria-label": "Views" });
const lost = el("div", { class: "lost", role: "alert", hidden: true });
const split = el("div", { class: "split" });
const detail = el("div", { class: "detail" });

/** @typedef {{kind: string, file: number, view: string, index: number, params: Record<string, string>}} Route */
/** @returns {Route} */
function route() {
    const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
    const parts = path.split("/"),
        params = Object.fromEntries(new URLSearchParams(query));
    if (parts[0] === "diff") return { kind: "diff", file: -1, view: "diff", index: -1, params };
    const file = parts[0] === "file" ? Number(parts[1]) : 0;
    return {
        kind: "file",
        file: files[file] ? file : 0,
        view: parts[2] || "overview",
        index: Number(parts[3]),
        params,
    };
}

/** Change the state in the address without a new entry in the history. @param {Record<string, any>} change */
function remember(change) {
    const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
    history.replaceState(
        null,
        "",
        address(path || "file/0/overview", { ...Object.fromEntries(new URLSearchParams(query)), ...change }),
    );
}

// ---------------------------------------------------------------------------------------------------------- frame

const brand = () => [
    el("img", { class: "logo", src: "icon.svg", alt: "", width: 20, height: 20 }),
    el("strong", { class: "brand" }, "Weighlock"),
];

function frame() {
    const picker =
        files.length > 1
            ? el(
                  "select",
                  {
                      class: "file",
                      "aria-label": "File",
                      onchange: () => {
                          const here = route();
                          location.hash = address(
                              `file/${picker.value}/${VIEWS.some(([v]) => v === here.view) ? here.view : "overview"}`,
                          );
                      },
                  },
                  files.map((f) =>
                      el("option", { value: f.file }, `${say.clip(f.name, 60)}${f.error ? " (damaged)" : ""}`),
                  ),
              )
            : el(
                  "span",
                  { class: "file", title: say.clip(files[0]?.name ?? "", 300) },
                  say.clip(files[0]?.name ?? "", 80),
              );
    picker.id = "file";
    const theme = button("◐", switchTheme, "Light or dark", { id: "theme" });
    const help = button("?", openHelp, "Keys and help", { "aria-keyshortcuts": "?" });
    fill(
        /** @type {HTMLElement} */ (document.getElementById("app")),
        el("header", {}, brand(), picker, nav, el("span", { class: "tools" }, theme, help)),
        lost,
        main,
        el("div", { id: "said", role: "status", class: "said" }),
        helpBox(),
    );
}

/** @param {Route} here */
function showNav(here) {
    const file = here.file < 0 ? 0 : here.file,
        current = { tensor: "tensors", value: "tensors" }[here.view] || here.view;
    const item = (view, text, href) => el("a", { href, "aria-current": current === view ? "page" : null }, text);
    fill(
        nav,
        VIEWS.map(([view, text]) => item(view, text, address(`file/${file}/${view}`))),
        files.length > 1 && item("diff", "Diff", address("diff")),
    );
    const picker = /** @type {HTMLSelectElement} */ (document.getElementById("file"));
    if (picker instanceof HTMLSelectElement) {
        picker.value = String(file);
        picker.hidden = here.file < 0;
    } // the diff has pickers of its own
    document.title = `${say.clip(files[file]?.name ?? "", 60)} – Weighlock`;
}

// --------------------------------------------------------------------------------------------------------- routing

async function go() {
    if (/^#(?:.*&)?token=/.test(location.hash)) {
        takeToken();
        start();
        return;
    }
    try {
        await show();
    } catch (error) {
        if (isAbort(error)) return;
        // A module that cannot be fetched is a TypeError; browsers keep it for good, so that only a new page helps.
        fill(
            main,
            problem(error instanceof TypeError ? serverLost() : error, () => location.reload()),
        );
    }
}

/** Show what the address says. */
async function show() {
    routing.abort();
    routing = new AbortController();
    const here = route(),
        { signal } = routing,
        view = { file: here.file, files, params: here.params, signal, remember };
    const lostFocus = document.activeElement === document.body || document.activeElement?.closest("nav");
    showNav(here);
    if (["tensors", "tensor", "value"].includes(here.view)) {
        await showBrowser(here, view);
        return;
    }
    const make = await (Object.hasOwn(PARTS, here.view) ? PARTS[here.view] : PARTS.overview)();
    if (signal.aborted) return;
    fill(main, make(view));
    main.scrollTop = 0;
    if (lostFocus && document.activeElement === document.body) main.focus({ preventScroll: true });
}

/** The list, and beside it the tensor that is open. The list stays as it is while tensors are looked at. @param {Route} here @param {import("./parts.js").View} view */
async function showBrowser(here, view) {
    const { signal } = view;
    const state = /** @type {any} */ (Object.fromEntries(LIST_STATE.map((name) => [name, here.params[name] || ""])));
    const isList = here.view === "tensors";
    const fresh =
        !browser ||
        browser.file !== here.file ||
        (isList &&
            LIST_STATE.some(
                (name) =>
                    /** @type {any} */ (browser?.state)[name] !== state[name] &&
                    !(name === "view" && !state.view && !browser?.state.view),
            ));
    if (fresh) {
        browser?.stop();
        const Browser = await PARTS.tensors(),
            known = await outline(here.file, signal);
        if (signal.aborted) return;
        browser = new Browser(here.file, state, known, (params) =>
            remember(Object.fromEntries(LIST_STATE.map((name) => [name, params[name] || null]))),
        );
    }
    const list = /** @type {import("./browser.js").Browser} */ (browser);
    split.classList.toggle("with-detail", !isList);
    fill(split, list.element, !isList && detail);
    if (main.firstChild !== split) fill(main, split);
    if (fresh) await list.start();
    else list.list?.update();
    if (signal.aborted) return;
    list.mark(here.view === "tensor" ? here.index : null);
    if (!isList) {
        const make = await PARTS[here.view]();
        if (signal.aborted) return;
        fill(detail, closer(), make(view, here.index));
    }
    detail.scrollTop = 0;
}

const closer = () => button("×", closeDetail, "Close, back to the list", { class: "closer" });

function closeDetail() {
    const here = route();
    location.hash = address(`file/${here.file}/tensors`, browser?.state || {});
    setTimeout(() => browser?.list?.focus(), 0);
}

/** @type {Map<number, any>} */ const outlines = new Map();
/** The overview of a file, for the names of its types; a file that cannot be opened has none. @param {number} file @param {AbortSignal} signal */
async function outline(file, signal) {
    if (!outlines.has(file)) {
        try {
            outlines.set(file, await get(`file/${file}`, {}, signal));
        } catch (error) {
            if (!isAbort(error) && !(error instanceof ApiError)) throw error;
        }
    }
    return outlines.get(file) || null;
}

// ------------------------------------------------------------------------------------------------- keys, theme, help

/** @param {KeyboardEvent} event */
function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const target = /** @type {HTMLElement} */ (event.target),
        typing = target.closest("input:not([type=checkbox]), select, textarea");
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") {
        escape(Boolean(typing));
        return;
    }
    if (typing) return;
    const file = Math.max(0, route().file),
        view = { o: "overview", t: "tensors", s: "storages", l: "layout", c: "security" }[event.key];
    if (event.key === "/") {
        event.preventDefault();
        inList((list) => list.focusSearch());
    } else if (event.key === "f") {
        event.preventDefault();
        inList((list) => list.toggleFilters());
    } else if (event.key === "d") {
        if (files.length > 1) location.hash = address("diff");
        else announce("Diff needs two files: weighlock view BEFORE AFTER");
    } else if (event.key === "?") openHelp();
    else if (view) location.hash = address(`file/${file}/${view}`);
}

/** Do something in the list of tensors, going there first. @param {(list: import("./browser.js").Browser) => void} action */
async function inList(action) {
    const here = route();
    if (!["tensors", "tensor", "value"].includes(here.view)) {
        history.pushState(
            null,
            "",
            address(
                `file/${Math.max(0, here.file)}/tensors`,
                browser && browser.file === Math.max(0, here.file) ? browser.state : {},
            ),
        );
        await go();
    }
    if (browser) action(browser);
}

/** @param {boolean} typing */
function escape(typing) {
    const view = route().view;
    if (typing) browser?.list?.focus();
    else if (view === "tensor" || view === "value") closeDetail();
    else if (view === "tensors" && browser && !browser.filters.hidden) browser.toggleFilters(false);
}

function switchTheme() {
    const root = document.documentElement,
        dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    setTheme(dark ? "light" : "dark");
}

/** @param {string|null} theme */
function setTheme(theme) {
    if (theme !== "light" && theme !== "dark") return;
    document.documentElement.dataset.theme = theme;
    localStorage.setItem(THEME, theme);
    window.dispatchEvent(new Event("resize"));
}

function helpBox() {
    return el(
        "dialog",
        { id: "help", "aria-labelledby": "help-title" },
        el(
            "div",
            {},
            el("h1", { id: "help-title" }, "Keys"),
            el(
                "dl",
                { class: "keys" },
                KEYS.map(([keys, text]) => el("div", {}, el("dt", {}, el("kbd", {}, keys)), el("dd", {}, text))),
            ),
            el(
                "p",
                {},
                "Search: plain text is found anywhere in a name; * and ? stand for anything, as in ",
                el("code", {}, "*.attn.*.weight"),
                ". Nothing in a file is run or imported, and nothing is written.",
            ),
            button("Close", () => /** @type {HTMLDialogElement} */ (document.getElementById("help")).close()),
        ),
    );
}

function openHelp() {
    /** @type {HTMLDialogElement} */ (document.getElementById("help")).showModal();
}

// ----------------------------------------------------------------------------------------------------------- start

async function start() {
    fill(
        /** @type {HTMLElement} */ (document.getElementById("app")),
        el("header", {}, brand()),
        el("main", { id: "main" }, loading("Opening…")),
    );
    browser?.stop();
    browser = null;
    outlines.clear();
    try {
        const answer = await get("files");
        files = answer.files;
        keepAlive(Number(answer.idle) || 0);
        frame();
        if (!location.hash) history.replaceState(null, "", address("file/0/overview"));
        await go();
    } catch (error) {
        if (!isAbort(error))
            fill(
                /** @type {HTMLElement} */ (document.getElementById("app")),
                el("main", { id: "main", class: "alone" }, el("h1", {}, "Weighlock"), problem(error, start)),
            );
    }
}

watchServer((gone) => {
    if (gone === !lost.hidden) return;
    lost.hidden = !gone;
    fill(
        lost,
        gone && [
            el("strong", {}, "The server does not answer. "),
            "It was stopped, or it ended after a time without use. Start it again with ",
            el("code", {}, "weighlock view FILE"),
            " and open the address it prints. ",
            button("Try again", ping),
        ],
    );
});

const ping = () => get("ping").catch(() => null);
/** @type {ReturnType<typeof setInterval>|undefined} */ let pinging;
/** A page in sight is use: the server, which ends after `idle` seconds without any, is asked in time. @param {number} idle 0 for never */
function keepAlive(idle) {
    clearInterval(pinging);
    pinging = setInterval(
        () => {
            if (document.visibilityState === "visible") ping();
        },
        idle ? Math.min(PING_EVERY, idle * 300) : PING_EVERY,
    );
}
setTheme(localStorage.getItem(THEME));
takeToken();
addEventListener("hashchange", go);
addEventListener("keydown", key);
document.querySelector(".skip")?.addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
});
start();
