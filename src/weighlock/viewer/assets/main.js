// @ts-check
/** The frame: files, views, keys, theme. What is shown stands in the address, so that back, forward and reload work. */

import * as api from "./api.js";
import { ApiError, get, isAbort, ping, serverLost, takeToken, watchFiles, watchServer } from "./api.js";
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
/** What the parameters of an address may be; anything else is left out, and said. @type {Record<string, RegExp>} */
const KNOWN = {
    q: /^[^]{1,400}$/,
    dtype: /^[^]{1,100}$/,
    layout: /^[^]{1,100}$/,
    shape: /^[^]{1,100}$/,
    min_bytes: /^\d{1,15}$/,
    sort: /^(key|dtype|shape|nbytes|storage|layout|unused|tensors|used|location)$/,
    desc: /^1$/,
    view: /^(tree|table)$/,
    fold: /^0$/,
    only: /^(all|different|changed|added|removed|same)$/,
    a: /^\d{1,4}$/,
    b: /^\d{1,4}$/,
    at: /^[^]{1,1000}$/,
    row: /^\d{1,15}$/,
    col: /^\d{1,15}$/,
    path: /^\[[^]{0,8000}\]$/,
};
/** Some words mean something in one view only. @type {Record<string, Record<string, RegExp>>} */
const KNOWN_IN = {
    tensors: { sort: /^(key|dtype|shape|nbytes|storage|layout)$/ },
    storages: { sort: /^(nbytes|unused|tensors|storage|used|location)$/ },
};
const KEYS = [
    ["/", "search names"],
    ["f", "filter"],
    ["d", "diff of two files"],
    ["o, t, s, l, c", "overview, tensors, storages, layout, security"],
    ["↑ ↓ Home End", "move in a list"],
    ["→ ←", "open and close a branch"],
    ["*", "open all branches of a level"],
    ["Enter", "show the tensor"],
    ["r", "show the open tensor in the tree"],
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
const notice = el("div", { class: "lost changed", role: "alert", hidden: true });
const split = el("div", { class: "split" });
const detail = el("div", { class: "detail" });

/** @typedef {{kind: string, file: number, view: string, index: number, params: Record<string, string>}} Route */
/** @returns {Route} */
function route() {
    const { path, params } = place();
    const parts = path.split("/");
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

/** The address: a path, and parameters. @returns {{path: string, params: Record<string, string>}} */
function place() {
    const [path, ...query] = location.hash.replace(/^#\/?/, "").split("?");
    return { path, params: Object.fromEntries(new URLSearchParams(query.join("?"))) };
}

/** Change the state in the address without a new entry in the history. @param {Record<string, any>} change */
function remember(change) {
    const { path, params } = place();
    history.replaceState(null, "", address(path || "file/0/overview", { ...params, ...change }));
}

/** Leave out of the address what nothing can be done with, and say so: a link may be old, cut, or mistyped. */
function tidy() {
    const { path, params } = place(),
        [kind, file, view = "overview", index] = path.split("/");
    const here = route(),
        known = { ...KNOWN, ...KNOWN_IN[here.view] };
    const junk = Object.entries(params)
        .filter(
            ([name, value]) => value !== "" && !(known[name]?.test(value) && (!/^[ab]$/.test(name) || files[value])),
        )
        .map(([name]) => name);
    const sane =
        !path ||
        kind === "diff" ||
        (kind === "file" &&
            files[file] &&
            Object.hasOwn(PARTS, view) &&
            (view !== "tensor" || /^\d{1,15}$/.test(index)));
    const kept = sane ? path : `file/${here.file}/${VIEWS.some(([known]) => known === view) ? view : "overview"}`;
    if (sane && !junk.length) return;
    history.replaceState(
        null,
        "",
        address(
            kept || "file/0/overview",
            Object.fromEntries(Object.entries(params).filter(([name]) => !junk.includes(name))),
        ),
    );
    const what = [!sane && "the view", junk.length && say.clip(junk.join(", "), 60)].filter(Boolean).join(" and ");
    announce(`The address is not understood; left out: ${what}.`);
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
        notice,
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
    tidy();
    const here = route(),
        { signal } = routing,
        view = { file: here.file, files, params: here.params, signal, remember, reload };
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
        const Browser = await PARTS.tensors();
        if (signal.aborted) return;
        browser = new Browser(here.file, state, (params) =>
            remember(Object.fromEntries(LIST_STATE.map((name) => [name, params[name] || null]))),
        );
    }
    const list = /** @type {import("./browser.js").Browser} */ (browser);
    split.classList.toggle("with-detail", !isList);
    fill(split, list.element, !isList && detail);
    if (main.firstChild !== split) fill(main, split);
    const index = here.view === "tensor" ? here.index : null;
    list.selected = index;
    const ready = fresh ? list.start() : list.list?.update();
    if (!isList) {
        const make = await PARTS[here.view]();
        if (signal.aborted) return;
        fill(detail, closer(), index !== null && revealer(index), make(view, here.index));
    }
    await ready;
    if (fresh) outline(here.file).then((known) => list.offer(known)); // last: it takes the server as long as the tree
    if (signal.aborted) return;
    list.mark(index);
    if (index !== null && !fresh) list.reveal(index);
    detail.scrollTop = 0;
}

const closer = () => button("×", closeDetail, "Close, back to the list", { class: "closer" });

/** @param {number} index */
const revealer = (index) =>
    button("In the tree", () => browser?.showInTree(index), "Show it in the tree of names", {
        class: "closer wide",
        "aria-keyshortcuts": "r",
    });

function closeDetail() {
    const here = route();
    location.hash = address(`file/${here.file}/tensors`, browser?.state || {});
    setTimeout(() => browser?.list?.focus(), 0);
}

/** @type {Map<number, any>} */ const outlines = new Map();
/** The overview of a file, for the names of its types; a file that cannot be opened has none. @param {number} file */
async function outline(file) {
    try {
        if (!outlines.has(file)) outlines.set(file, await get(`file/${file}`));
    } catch (error) {
        if (!(error instanceof ApiError)) throw error;
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
    } else if (event.key === "r" && route().view === "tensor") browser?.showInTree(route().index);
    else if (event.key === "?") openHelp();
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
        api.show(files);
        keepAlive(Number(answer.idle) || 0);
        frame();
        api.tell(files);
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
            button("Try again", look),
        ],
    );
});

/** What a file on disk has become of, and what that means for what is shown. @type {Record<string, string>} */
const BECOME = {
    changed: " was changed on disk while it was open. Nothing more of it is shown until it is opened anew. ",
    replaced: " on disk was replaced by another file. What is shown is the file as it was. ",
    gone: " is no longer on disk. What is shown is the file as it was. ",
    stale: " was opened anew by another page. What is shown here is the file as it was. ",
};

watchFiles((states) => {
    const odd = states.filter(({ state }) => state !== "same");
    const text = JSON.stringify(odd);
    if (notice.dataset.states === text) return;
    notice.dataset.states = text;
    notice.hidden = !odd.length;
    fill(
        notice,
        odd.map(({ file, state }) =>
            el(
                "p",
                {},
                el("strong", {}, say.clip(files[file]?.name ?? `File ${file}`, 80)),
                BECOME[state] ?? ` is ${state}. `,
                state !== "gone" && button("Reload", () => reload(file)),
            ),
        ),
    );
});

/** Open a file anew, and show all anew that is shown of it. @param {number} file */
async function reload(file) {
    const here = route(),
        shown = here.view === "tensor" && here.file === file && detail.querySelector("h1.key")?.textContent;
    try {
        await api.reopen(file);
        if (shown) await find(file, shown, here.index);
        await start();
    } catch (error) {
        announce(String(/** @type {any} */ (error)?.message || error));
    }
}

/** Tensors are numbered: in the new file another one may have the number of the one that is shown. @param {number} file @param {string} key @param {number} index */
async function find(file, key, index) {
    const same = (row) => say.name(row.key, 600) === key,
        ask = async (params) => (await get(`file/${file}/tensors`, params).catch(() => null))?.rows.find(same);
    const row = (await ask({ offset: index, limit: 1 })) || (await ask({ q: key.slice(0, 400) }));
    history.replaceState(null, "", address(row ? `file/${file}/tensor/${row.index}` : `file/${file}/tensors`));
    if (!row) setTimeout(() => announce(`${say.clip(key, 80)} is not in the file any more.`), 0);
}

const look = () => ping().catch(() => null);
/** @type {ReturnType<typeof setInterval>|undefined} */ let pinging;
/** A page in sight is use: the server, which ends after `idle` seconds without any, is asked in time. @param {number} idle 0 for never */
function keepAlive(idle) {
    clearInterval(pinging);
    pinging = setInterval(
        () => {
            if (document.visibilityState === "visible") look();
        },
        idle ? Math.min(PING_EVERY, idle * 300) : PING_EVERY,
    );
}
setTheme(localStorage.getItem(THEME));
takeToken();
addEventListener("hashchange", go);
// Whoever comes back to the page may have written the file meanwhile.
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && files.length && look());
addEventListener("focus", () => files.length && look());
addEventListener("keydown", key);
document.querySelector(".skip")?.addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
});
start();
