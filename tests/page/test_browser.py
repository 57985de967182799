"""The page in a real browser: from disk and from servers, by pointer and by keyboard, with names that want to do harm."""

from __future__ import annotations

import functools
import http.server
import io
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stpredict.page.html import write_page
from stpredict.page.story import Story

CONTEXT, HORIZON, RATE = 3, 5, 5
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "../../etc/passwd",
    "\u202eevil\u202c שלום",
    "🎬" * 60,
    "</script><script>alert(3)</script>",
    "__proto__",
)


@dataclass
class Seen:
    """What a page did that it should not do, and what it asked for."""

    requests: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class Opener:
    """Opens pages in one browser, each in a context of its own, and notes what they do."""

    def __init__(self, browser: Any) -> None:
        self.browser, self.contexts = browser, []  # type: ignore[var-annotated]

    def __call__(self, url: str, **settings: Any) -> tuple[Any, Seen]:
        # Without motion nothing scrolls smoothly, so that what was measured is still there when it is clicked.
        usual = {"viewport": {"width": 1200, "height": 1600}, "reduced_motion": "reduce"}
        context = self.browser.new_context(**{**usual, **settings})
        self.contexts.append(context)
        page, seen = context.new_page(), Seen()
        page.set_default_timeout(10_000)
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("console", lambda message: seen.faults.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: seen.faults.append(str(error)))
        page.on("dialog", lambda dialog: (seen.faults.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.goto(url, wait_until="commit")
        if settings.get("java_script_enabled", True):
            page.wait_for_selector("html.scripted")
        return page, seen


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves files, and parts of files where they are asked for."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        first, last = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
        self.send_response(206)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class Plain(http.server.SimpleHTTPRequestHandler):
    """Serves whole files only, as ``python -m http.server`` does."""

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def visit(chromium: Any) -> Iterator[Opener]:
    opener = Opener(chromium)
    yield opener
    for context in opener.contexts:
        context.close()


@pytest.fixture(scope="module")
def site(make_story: Callable[..., Story], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``page/index.html`` and the same in one file, ``single.html``."""
    folder = tmp_path_factory.mktemp("site")
    story = make_story(folder / "made")
    write_page(story, folder / "page", folder / "made", single=False)
    write_page(story, folder / "single.html", folder / "made", single=True)
    return folder


@pytest.fixture(scope="module")
def urls(site: Path) -> Iterator[dict[str, str]]:
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(kind, directory=str(site))) for kind in (Ranges, Plain)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    ranges, plain = (f"http://127.0.0.1:{server.server_address[1]}/page/index.html" for server in servers)
    yield {"disk": (site / "page" / "index.html").as_uri(), "single": (site / "single.html").as_uri(), "ranges": ranges, "plain": plain}
    for server in servers:
        server.shutdown()
        server.server_close()


def until(page: Any, script: str, *arguments: Any, seconds: float = 10.0) -> Any:
    """Return what a script gives as soon as it gives something true; the page's own policy forbids the library's way to wait."""
    end = time.monotonic() + seconds
    while not (answer := page.evaluate(script, *arguments)):
        assert time.monotonic() < end, f"{script} stayed {answer!r}: {page.evaluate(STATES)}"
        time.sleep(0.02)
    return answer


STATES = "() => [...document.querySelectorAll('video')].map((video) => [video.readyState, video.seeking, video.currentTime])"
SETTLED = """() => {
  const all = [...document.querySelectorAll('video')];
  const near = [...document.querySelectorAll('.screen')].filter((screen) => {
    const { top, bottom, width } = screen.getBoundingClientRect();
    return width && bottom > 0 && top < innerHeight;
  });
  return near.length && near.every((screen) => screen.querySelector('video, .lost'))
    && all.every((video) => video.readyState === 4 && !video.seeking && video.seekable.length
      && video.seekable.end(0) > video.duration - 0.01);  // or it is being fetched whole
}"""
GRAYS = """() => [...document.querySelectorAll('video')].map((video) => {
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = 8;
  const pen = canvas.getContext('2d');
  pen.drawImage(video, 0, 0, 8, 8);
  return pen.getImageData(4, 4, 1, 1).data[1];
})"""


def show_films(page: Any) -> None:
    page.locator("#films h2").evaluate("(heading) => heading.scrollIntoView({behavior: 'instant'})")
    until(page, SETTLED)


def gray_on_screen(page: Any, place: int, wanted: int, seconds: float = 10.0) -> int:
    """Return the gray in the middle of a film as the screen shows it, which may lag behind the film: the wanted one, or the last."""
    end = time.monotonic() + seconds
    while True:
        with Image.open(io.BytesIO(page.locator("video").nth(place).screenshot())) as image:
            gray = int(image.convert("RGB").getpixel((image.width // 2, image.height // 2))[1])  # type: ignore[index]
        if abs(gray - wanted) <= 6 or time.monotonic() > end:
            return gray


def brightness(frame: int) -> int:
    return 20 + 28 * frame


@pytest.mark.parametrize("where", ["disk", "single", "ranges", "plain"])
def test_it_opens_without_a_fault_asks_for_nothing_outside_and_seeks_exactly(urls: dict[str, str], visit: Opener, where: str) -> None:
    page, seen = visit(urls[where])
    show_films(page)
    assert page.locator("video").count() == 10
    assert {state[0] for state in page.evaluate(STATES)} == {4}
    for position in (-CONTEXT, 1, -1, HORIZON - 1, 0):
        page.locator(".player input").fill(str(position))
        until(page, SETTLED)
        gray = brightness(CONTEXT + position)
        if where == "disk":  # where a page may not look into its films
            assert [gray_on_screen(page, place, gray) for place in (0, 4)] == pytest.approx([gray] * 2, abs=6), position
        else:
            assert page.evaluate(GRAYS) == pytest.approx([gray] * 10, abs=6), position
    blobs = page.evaluate("() => [...document.querySelectorAll('video')].map((video) => video.src.startsWith('blob:'))")
    assert set(blobs) == {where in ("single", "plain")}, "a film is fetched whole only where it must be"
    assert seen.faults == []
    base = urls[where].rpartition("/")[0] + "/"
    assert len(seen.requests) > 1 and [url for url in seen.requests if not url.startswith((base, "data:", "blob:"))] == []
    assert (where == "single") == all(url in (urls[where], "data:,") or url.startswith("blob:") for url in seen.requests)


def test_one_control_moves_all_films(urls: dict[str, str], visit: Opener) -> None:
    page, seen = visit(urls["ranges"])
    show_films(page)
    output, phases, captions = page.locator(".player output"), page.locator(".phase"), page.locator(".clip .caption")
    assert output.text_content() == "frame 4 of 8 · forecast, lead 1"
    page.get_by_role("button", name="first frame").click()
    assert output.text_content() == "frame 1 of 8 · observed" and phases.all_text_contents() == ["observed"] * 2
    page.get_by_role("button", name="one frame on").click()
    until(page, SETTLED)
    assert page.evaluate(GRAYS) == pytest.approx([brightness(1)] * 10, abs=6)
    assert captions.all_text_contents() == ["observed 2 of 3"] * 2

    page.evaluate(
        """() => {
          window.met = [];
          const note = () => window.met.push([...document.querySelectorAll('video')].map((video) => video.currentTime));
          new MutationObserver(note).observe(document.querySelector('.player output'), {childList: true});
        }"""
    )
    page.get_by_role("checkbox", name="loop").uncheck()
    page.get_by_role("combobox", name="Speed").select_option(index=4)
    page.get_by_role("button", name="Play").click()
    until(page, "() => window.met.length >= 6 && document.querySelector('.play').textContent === 'Play'", seconds=30)
    met = page.evaluate("window.met")
    assert met == [pytest.approx([(frame + 0.5) / RATE] * 10, abs=1e-3) for frame in range(2, 8)], "every frame, all films at once"
    assert output.text_content() == f"frame 8 of 8 · forecast, lead {HORIZON}"
    assert phases.all_text_contents() == ["forecast"] * 2 and captions.all_text_contents() == [f"lead {HORIZON}"] * 2
    assert seen.faults == []


def test_the_keyboard_moves_the_films(urls: dict[str, str], visit: Opener) -> None:
    page, _ = visit(urls["disk"])
    show_films(page)
    output = page.locator(".player output")
    page.locator(".player input").focus()
    for key, said in (
        ("Home", "frame 1 "),
        ("ArrowRight", "frame 2 "),
        ("ArrowRight", "frame 3 "),
        ("ArrowLeft", "frame 2 "),
        ("End", "frame 8 "),
    ):
        page.keyboard.press(key)
        assert output.text_content().startswith(said), key
    assert page.locator(".player input").get_attribute("aria-valuetext") == f"frame 8 of 8, forecast, lead {HORIZON}"
    page.keyboard.press(" ")
    assert page.get_by_role("button", name="Pause").count() == 1
    page.keyboard.press(" ")
    assert page.get_by_role("button", name="Play").count() == 1
    page.locator("video").first.click()
    assert page.get_by_role("button", name="Pause").count() == 1, "a click on a film plays"


def test_clips_errors_and_predictors_can_be_chosen(urls: dict[str, str], visit: Opener) -> None:
    page, _ = visit(urls["disk"])
    show_films(page)
    page.get_by_role("checkbox", name="errors").uncheck()
    assert page.locator("[data-kind=error]:visible").count() == 0 and page.locator("[data-kind=forecast]:visible").count() == 4
    page.locator("#films").get_by_role("checkbox", name="predrnn", exact=True).uncheck()
    assert page.locator("[data-kind=forecast]:visible figcaption").all_text_contents() == ["convlstm"] * 2
    assert not page.locator("#sheet-0 .chooser").get_by_role("checkbox", name="predrnn", exact=True).is_checked(), (
        "there is one choice for all"
    )
    page.get_by_role("combobox", name="Clips").select_option(index=2)
    assert page.locator(".clip:visible h3").all_text_contents() == ["clip 1 by mse"]


def test_the_table_sorts(urls: dict[str, str], visit: Opener) -> None:
    page, _ = visit(urls["disk"])
    table = page.locator("table.scores").first
    names = table.locator("tbody th")
    published = "A paper <b>1</b> published"
    assert names.all_text_contents() == ["convlstm", "predrnn", "persistence", "extrapolation", published]
    for _, order, sort in ((1, 1, "ascending"), (2, -1, "descending")):
        table.get_by_role("button", name="ssim").click()
        assert names.all_text_contents() == [*["convlstm", "predrnn"][::order], *["persistence", "extrapolation"][::order], published]
        assert table.locator("th[aria-sort]").count() == 1
        assert table.locator("th[aria-sort]").get_attribute("aria-sort") == sort
    table.get_by_role("button", name="predictor").focus()
    page.keyboard.press("Enter")
    assert names.all_text_contents() == ["convlstm", "predrnn", "extrapolation", "persistence", published]
    assert table.locator("tbody tr", has_text="convlstm").locator("td.best").count() == 1


def test_plots_say_their_values(urls: dict[str, str], visit: Opener, make_story: Callable[..., Story], tmp_path: Path) -> None:
    page, _ = visit(urls["disk"])
    numbers = make_story(tmp_path, clips=0).sheets[0].scores["scores"]
    plot = page.locator(".plot.leads")
    plot.locator(".picture").scroll_into_view_if_needed()
    until(page, "() => document.querySelectorAll('.leads .line').length >= 4")
    plot.locator(".picture").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert plot.locator(".values caption").text_content() == "lead 2 (10 min)"
    said = dict(zip(plot.locator(".values th").all_text_contents(), plot.locator(".values td").all_text_contents(), strict=True))
    assert list(said) == ["convlstm", "predrnn", "persistence", "extrapolation"], "the best first"
    for name, text in said.items():
        found = numbers[name]["mse"]
        told = [float(word) for word in re.findall(r"[\d.]+", text)]
        assert told == pytest.approx([found["per_lead"][1], *(bound[1] for bound in found["per_lead_interval"])], rel=1e-3)
    assert "lead 2" in plot.locator("[aria-live]").text_content()

    plot.get_by_role("combobox", name="Score").select_option(label="csi")
    plot.get_by_role("combobox", name="Part").select_option(label="2")
    box = plot.locator(".picture").bounding_box()
    lead = page.locator(".leads .axes text", has_text=re.compile(r"^4$")).last.bounding_box()
    page.mouse.move(lead["x"] + lead["width"] / 2 + 5, box["y"] + 60)
    assert plot.locator(".values caption").text_content() == "lead 4 (20 min)"
    told = [float(text) for text in plot.locator(".values td").all_text_contents()]
    assert told == pytest.approx([numbers[name]["csi"]["parts"]["2"]["per_lead"][3] for name in reversed(said)], rel=1e-3), (
        "higher is better"
    )
    page.mouse.move(box["x"] + 100, box["y"] - 200)
    assert plot.locator(".values").is_hidden()

    page.locator("#sheet-0 .chooser").get_by_role("checkbox", name="persistence").uncheck()
    assert plot.locator(".picture > g > g[data-series]").count() == 3
    for kind, least in (("spectra", 3), ("curves", 2)):
        page.locator(f".plot.{kind}").scroll_into_view_if_needed()
        until(page, f"() => document.querySelectorAll('.{kind} g[data-series] .line').length >= {least}")


def test_hostile_names_are_names(make_story: Callable[..., Story], visit: Opener, tmp_path: Path) -> None:
    told = make_story(tmp_path / "made", HOSTILE, clips=1)
    sheet = replace(told.sheets[0], heading=HOSTILE[0])
    story = replace(told, title=HOSTILE[5], lead=HOSTILE[1], sheets=(sheet,), provenance={HOSTILE[0]: HOSTILE[1]}, warnings=HOSTILE)
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    page, seen = visit(write_page(story, tmp_path / "out", tmp_path / "made", single=False).as_uri())
    show_films(page)
    page.locator(".leads .picture").scroll_into_view_if_needed()
    until(page, "() => document.querySelectorAll('.leads .line').length >= 9")
    page.locator(".leads .picture").focus()
    page.keyboard.press("Home")
    until(page, "() => document.querySelectorAll('.leads .values tr').length === 9")
    assert seen.faults == []
    assert page.locator("script").count() == 2 and page.locator("img").count() == 0
    assert set(page.locator(".leads .values th").all_text_contents()) >= set(HOSTILE)
    assert page.title() == HOSTILE[5]
    assert {path for path in tmp_path.rglob("*") if "out" not in path.parts} == before
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a long name scrolls the page"


def test_light_and_dark(urls: dict[str, str], visit: Opener) -> None:
    page, _ = visit(urls["ranges"], color_scheme="light")
    paper = "() => getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(paper) == "rgb(22, 24, 28)"
    page.get_by_role("button", name="Light").click()
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.reload(wait_until="commit")
    page.wait_for_selector("html.scripted")
    assert page.evaluate(paper) == "rgb(255, 255, 255)", "the choice is remembered"


def test_it_fits_any_width(urls: dict[str, str], visit: Opener) -> None:
    page, _ = visit(urls["disk"], viewport={"width": 320, "height": 700})
    for width in (320, 375, 2560):
        page.set_viewport_size({"width": width, "height": 700})
        show_films(page)
        assert page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]") == [width, width]
        assert page.locator("video").count() >= 2


def test_a_missing_film_is_said(make_story: Callable[..., Story], visit: Opener, tmp_path: Path) -> None:
    story = make_story(tmp_path / "made", clips=1)
    (tmp_path / "made" / "clip0-1.mp4").unlink()
    page_file = write_page(story, tmp_path / "out", tmp_path / "made", single=False)
    (tmp_path / "out" / "films" / "clip0-2.mp4").unlink()
    (tmp_path / "out" / "films" / "clip0-3.mp4").write_bytes(b"no film")
    page, _ = visit(page_file.as_uri())
    page.locator("#films h2").evaluate("(heading) => heading.scrollIntoView({behavior: 'instant'})")
    until(page, "() => document.querySelectorAll('.lost').length === 3")
    until(page, SETTLED)
    assert page.locator(".lost").first.text_content() == "This film is missing."
    page.get_by_role("button", name="first frame").click()
    page.get_by_role("button", name="Play").click()
    until(page, "() => /^frame [3-8]/.test(document.querySelector('.player output').textContent)")


def test_without_a_script_tables_and_films_are_there(urls: dict[str, str], visit: Opener) -> None:
    page, seen = visit(urls["disk"], java_script_enabled=False)
    page.wait_for_load_state()
    assert page.locator("table.scores").first.locator("tbody tr").count() == 5
    assert page.locator("video[controls]").count() == 10
    page.locator("summary", has_text="Scores by lead in numbers").click()
    assert page.get_by_role("region", name="mse by lead").is_visible()
    assert seen.faults == []


def test_it_says_what_it_is_to_those_who_cannot_see_it(urls: dict[str, str], visit: Opener) -> None:
    page, _ = visit(urls["disk"])
    show_films(page)
    assert page.evaluate("() => [...document.querySelectorAll('button, select, input')].filter((one) => "
                         "!(one.ariaLabel || one.textContent.trim() || one.closest('label')?.textContent.trim())).length") == 0  # fmt: skip
    assert page.locator("video").first.get_attribute("aria-label") == "what happened"
    assert not page.get_by_role("checkbox", name="loop").is_checked(), "nothing goes on and on for those who asked for less motion"
    page.evaluate("() => window.scrollTo({top: 0, behavior: 'instant'})")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.emulate_media(media="print")
    assert page.locator(".player").is_hidden() and page.locator("table.scores").first.is_visible()


def test_ten_predictors_and_twenty_clips_are_ready_within_a_second(make_story: Callable[..., Story], visit: Opener, tmp_path: Path) -> None:
    """Until a click is handled and shown, counted from the beginning of the navigation."""
    story = make_story(tmp_path / "out" / "films", [f"predictor {number}" for number in range(10)], clips=20)
    page_file = write_page(story, tmp_path / "out", tmp_path / "out" / "films", single=False)
    assert page_file.stat().st_size < 600_000
    took: list[float] = []
    while len(took) < 5 and min(took, default=math.inf) >= 1000:  # other programs may be at work too
        context = visit.browser.new_context(viewport={"width": 1600, "height": 1000})
        visit.contexts.append(context)
        page = context.new_page()
        page.add_init_script(
            """const waiting = setInterval(() => {
              const button = document.getElementById('theme');
              if (!button || button.hidden) return;
              clearInterval(waiting);
              button.addEventListener('click', () => requestAnimationFrame(() => (window.ready = performance.now())));
              button.click();
            }, 5);"""
        )
        page.goto(page_file.as_uri(), wait_until="commit")
        took.append(until(page, "() => window.ready ?? 0"))
        assert page.evaluate("document.querySelectorAll('.screen').length") == 420
    assert min(took) < 1000, took
