"""A look at built pages in Chromium: what they fetch and weigh, whether they fit and are accessible."""

from __future__ import annotations

import functools
import gzip
import http.server
import importlib.util
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WIDE, NARROW = 1280, 390
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
NO_CHROMIUM = "the browser tests need Chromium: install it with `apt-get install chromium` and run again"
COMPRESSED = {".html", ".css", ".js", ".json", ".svg", ".txt"}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
#: (rule, part of the element): what the theme does itself and a book cannot change
ALLOWED = [("region", "logo__")]


def chromium() -> str | None:
    """The path of Chromium on this machine."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder quietly and compresses text, as static hosts do."""

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() else path
        if path.suffix not in COMPRESSED or not path.is_file():
            super().do_GET()
            return
        body = compressed(path, path.stat().st_mtime_ns)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@functools.cache
def compressed(path: Path, changed: int) -> bytes:
    return gzip.compress(path.read_bytes(), 6)


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The address under which a folder can be read on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def launch() -> Iterator[Any]:
    """A running Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Look:
    """What was seen while a page was open."""

    page: str
    width: int
    outside: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    transferred: dict[str, int] = field(default_factory=dict)

    @property
    def weight(self) -> int:
        """Bytes over the wire of everything the first view loads."""
        return sum(self.transferred.values())

    def heaviest(self, count: int = 8) -> str:
        largest = sorted(self.transferred.items(), key=lambda item: -item[1])[:count]
        return ", ".join(f"{name} {size / 1e3:.0f} kB" for name, size in largest)

    def complaints(self) -> list[str]:
        return (
            [f"asked another host for {url}" for url in self.outside]
            + [f"missing: {url}" for url in self.missing]
            + [f"error in the console: {text}" for text in self.errors]
        )


@contextmanager
def visit(browser: Any, base: str, page: str, width: int) -> Iterator[tuple[Any, Look]]:
    """Open a page, wait for its formulas, and note all it asks for.  Other hosts are not reached."""
    look = Look(page, width)
    context = browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(120_000)  # a busy machine is no fault of the page
    tab = context.new_page()

    def route(route: Any) -> None:
        url = route.request.url
        if url.startswith((base, "data:", "blob:")):
            route.continue_()
        else:
            look.outside.append(url)
            route.abort()

    def finished(request: Any) -> None:
        if request.url.startswith(base):
            name = request.url.removeprefix(base)
            sizes = request.sizes()
            look.transferred[name] = sizes["responseBodySize"] + sizes["responseHeadersSize"]

    finished_requests: list[Any] = []
    tab.route("**/*", route)
    tab.on(
        "response",
        lambda response: look.missing.append(f"{response.status} {response.url}") if response.status >= 400 else None,
    )
    tab.on("console", lambda message: look.errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: look.errors.append(str(error)))
    tab.on("requestfinished", lambda request: finished_requests.append(request))
    try:
        tab.goto(base + page, wait_until="load")
        tab.evaluate("() => window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => true) : true")
        tab.wait_for_load_state("networkidle")
        for request in finished_requests:
            finished(request)
        yield tab, look
    finally:
        context.close()


def overflow(tab: Any) -> list[str]:
    """What makes the page wider than the window: elements that stick out and that no ancestor can scroll."""
    return tab.evaluate(
        """() => {
          const width = document.documentElement.scrollWidth, limit = window.innerWidth;
          if (width <= limit) return [];
          const clips = (e) => getComputedStyle(e).overflowX !== "visible";
          const scrolls = (e) => e && e !== document.body && (clips(e) || scrolls(e.parentElement));
          const out = [...document.querySelectorAll("body *")]
            .filter((e) => e.getBoundingClientRect().right > limit + 1)
            .filter((e) => !scrolls(e.parentElement) && !e.closest("mjx-assistive-mml"));
          return [`the page is ${width} px wide`, ...out.slice(0, 4).map((e) => {
            const name = `${e.tagName.toLowerCase()}.${e.getAttribute("class") || ""}`;
            const block = e.closest("p, li, dd, dt, td, div") || e;
            const text = block.textContent.trim().replace(/\\s+/g, " ").slice(0, 90);
            return `${name} ends at ${Math.round(e.getBoundingClientRect().right)} px in: ${text}`;
          })];
        }"""
    )


def clipped(tab: Any) -> list[str]:
    """Formulas, tables, pictures and code that are cut off at the edge and that nobody can scroll into view."""
    return tab.evaluate(
        """() => {
          const scrollable = (e) => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
          const reachable = (e) => e && e.tagName !== "ARTICLE" && (scrollable(e) || reachable(e.parentElement));
          const box = document.querySelector("article")?.getBoundingClientRect();
          const [start, edge] = box ? [box.left, box.right] : [0, window.innerWidth];
          // no scroll bar reaches what begins left of the page
          const cut = (r, e) => r.width && (r.left < start - 1 || (r.right > edge + 1 && !reachable(e)));
          return [...document.querySelectorAll("article :is(mjx-container, table, img, pre, code, input)")]
            .filter((e) => cut(e.getBoundingClientRect(), e)).slice(0, 8).map((e) => {
              const block = e.closest("p, li, dd, td, figure, div") || e;
              const text = block.textContent.trim().replace(/\\s+/g, " ").slice(0, 90);
              return `${e.tagName.toLowerCase()} is cut off at ${Math.round(edge)} px in: ${text}`;
            });
        }"""
    )


def math_errors(tab: Any) -> list[str]:
    """Formulas that MathJax could not read, and formulas it did not typeset."""
    return tab.evaluate(
        """() => [...document.querySelectorAll("mjx-merror, [data-mjx-error]")]
          .map((e) => e.getAttribute("data-mjx-error") || e.textContent)
          .concat([...document.querySelectorAll("article .math")]
            .filter((e) => !e.querySelector("mjx-container"))
            .map((e) => "not typeset: " + e.textContent.slice(0, 80)))"""
    )


def set_theme(tab: Any, theme: str) -> None:
    tab.evaluate("(theme) => { const d = document.documentElement.dataset; d.theme = d.mode = theme; }", theme)


@functools.cache
def axe_source() -> str:
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        raise RuntimeError("the accessibility tests need the package axe-playwright-python")
    return (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")


#: Text whose contrast can differ from that of other text on the page: one element for each combination of
#: colour, size, weight, and what lies behind it.  A chapter has thousands of words and a dozen combinations.
DISTINCT_TEXT = """() => {
  const behind = (e) => {
    let key = "";
    for (; e; e = e.parentElement) {
      const style = getComputedStyle(e);
      key += [style.backgroundColor, style.backgroundImage, style.opacity, style.filter].join();
    }
    return key;
  };
  const backgrounds = new Map(), kinds = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.checkVisibility() || e.closest("script, style, mjx-container")) continue;
    if (!backgrounds.has(e)) backgrounds.set(e, behind(e));
    const style = getComputedStyle(e);
    const kind = [style.color, style.fontSize, style.fontWeight, style.textShadow, backgrounds.get(e)].join("|");
    if (!kinds.has(kind)) kinds.set(kind, e);
  }
  return [...kinds.values()];
}"""


#: The inside of formulas is MathJax's own, and more than half of the elements of a chapter: a word stands for it.
EMPTY_FORMULAS = """() => {
  const formulas = [...document.querySelectorAll("mjx-container")];
  const sizes = formulas.map((e) => e.getBoundingClientRect());
  formulas.forEach((e, k) => {
    e.textContent = "formula";
    const size = {width: `${sizes[k].width}px`, height: `${sizes[k].height}px`};
    Object.assign(e.style, {display: "inline-block", overflow: "hidden", ...size});
  });
}"""


def run_axe(tab: Any, context: str, rules: str) -> list[str]:
    """Violations of some rules, without those that the theme commits everywhere.  Formulas are gone afterwards."""
    if not tab.evaluate("() => Boolean(window.axe)"):
        tab.evaluate(axe_source())
        tab.evaluate(EMPTY_FORMULAS)
        still = "*, ::before, ::after { transition: none !important; animation: none !important; }"
        tab.add_style_tag(content=still)
    found = tab.evaluate(
        f"""async () => {{
          const options = {{resultTypes: ["violations"], preload: false, {rules}}};
          const result = await axe.run({context}, options);
          const line = (v) => v.nodes.map((n) => [v.id, n.html, n.failureSummary, n.target.join(" ")]);
          return result.violations.flatMap(line);
        }}"""
    )
    return [
        f"{rule}: {html[:200]} at {target}: {' '.join(summary.split())[:300]}"
        for rule, html, summary, target in found
        if not any(rule == allowed and part in html.partition(">")[0] for allowed, part in ALLOWED)
    ]


def contrast(tab: Any) -> list[str]:
    """Text that is hard to read in the theme that is set; every kind of text is looked at once."""
    return run_axe(tab, f"{{include: ({DISTINCT_TEXT})()}}", 'runOnly: ["color-contrast"]')


def accessibility(tab: Any) -> list[str]:
    """What axe finds beside contrast."""
    return run_axe(tab, "document", f'runOnly: {RULES}, rules: {{"color-contrast": {{enabled: false}}}}')
